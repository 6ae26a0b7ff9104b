"""`forge-otel export traces`: generations as JSON lines, for analysis elsewhere."""

import asyncio
import os
import sys
from argparse import ArgumentTypeError, Namespace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from forge_otel.errors import ConfigurationError, ServiceUnavailable, needs
from forge_otel.settings import Settings, mask_url

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    export = commands.add_parser("export", help="write what the database of FORGE_DATABASE_URL knows, as JSON lines")
    kinds = export.add_subparsers(required=True, metavar="WHAT")
    traces = kinds.add_parser("traces", help="one line a generation: its agents, model calls, costs, trace id and run")
    traces.add_argument("--from", dest="start", type=_moment, help="begun at or after: 2026-01-31, or with a time")
    traces.add_argument("--to", dest="end", type=_moment, help="begun before (default: now)")
    traces.add_argument("--type", help="only this component type")
    traces.set_defaults(command=_traces)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ArgumentTypeError(f"{text!r} is no date or time of ISO 8601, as in 2026-01-31T18:00+01:00") from exc
    # A time without an offset is UTC, as it is everywhere else here.
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _traces(arguments: Namespace) -> int:
    url = Settings.from_env(os.environ).database_url
    if url is None:
        raise ConfigurationError(["FORGE_DATABASE_URL is empty, so there is no database to export from"])
    try:
        asyncio.run(_write(url, arguments))
    except BrokenPipeError:
        # Whoever reads has had enough, as `head` does; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _write(url: str, arguments: Namespace) -> None:
    from forge_otel.database.analytics.trace_export import export_traces
    from forge_otel.database.engine import create_engine

    with needs("sql"):
        from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(url)
    try:
        async for line in export_traces(engine, arguments.start, arguments.end, arguments.type):
            sys.stdout.buffer.write(orjson.dumps(line, default=_plain, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
    except (SQLAlchemyError, OSError) as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        # What a driver says may repeat the password.
        raise ServiceUnavailable(
            f"the database {mask_url(url)} cannot be read ({type(exc).__name__}); what was written is whole"
        ) from exc
    finally:
        await engine.dispose()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        # As text: a float would not be the cent that was paid.
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
