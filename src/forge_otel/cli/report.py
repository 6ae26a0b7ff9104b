"""`forge-otel report`: prints the analytics of a range as a table, JSON, CSV or HTML."""

import asyncio
from argparse import Namespace
from typing import Any

from forge_otel.cli._database import existing_database_url, read

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser("report", help="report on the generations of a range, from the database")
    command.add_argument("--from", dest="start", help="2026-03-01, or with a time (default: a week before --to)")
    command.add_argument("--to", dest="end", help="end of the range, exclusive (default: now)")
    command.add_argument("--type", dest="component_type", help="only this component type")
    command.add_argument("--format", default="table", choices=("table", "json", "csv", "html"))
    command.add_argument("--errors", type=int, default=10, help="maximum number of error types (default: %(default)s)")
    command.set_defaults(command=_report)


def _report(arguments: Namespace) -> int:
    from forge_otel.database.analytics.report import parse_range, render, report

    url = existing_database_url()
    requested = parse_range(arguments.start, arguments.end, arguments.component_type)
    found = asyncio.run(read(url, lambda engine: report(engine, requested, errors=arguments.errors)))
    print(render(found, arguments.format), end="")
    return 0
