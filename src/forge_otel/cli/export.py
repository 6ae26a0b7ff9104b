"""`forge-otel export traces`: writes generations as JSON lines, for analysis elsewhere."""

import asyncio
import os
import sys
from argparse import ArgumentTypeError, Namespace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from forge_otel.cli._database import existing_database_url, read

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    export = commands.add_parser("export", help="export from the database of FORGE_DATABASE_URL as JSON lines")
    kinds = export.add_subparsers(required=True, metavar="WHAT")
    traces = kinds.add_parser(
        "traces", help="one line per generation: its agents, model calls, costs, trace id and LangSmith URL"
    )
    traces.add_argument("--from", dest="start", type=_moment, help="start of the range: 2026-01-31, or with a time")
    traces.add_argument("--to", dest="end", type=_moment, help="end of the range, exclusive (default: now)")
    traces.add_argument("--type", help="only this component type")
    traces.set_defaults(command=_traces)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ArgumentTypeError(f"{text!r} is not an ISO 8601 date or time, such as 2026-01-31T18:00+01:00") from exc
    # A time without an offset is in UTC, as in reports.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _traces(arguments: Namespace) -> int:
    try:
        asyncio.run(read(existing_database_url(), lambda engine: _write(engine, arguments)))
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. Python would raise again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _write(engine: "AsyncEngine", arguments: Namespace) -> None:
    from forge_otel.database.analytics.trace_export import export_traces

    async for line in export_traces(engine, arguments.start, arguments.end, arguments.type):
        sys.stdout.buffer.write(orjson.dumps(line, default=_plain, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        # As text, because a float is not exact.
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
