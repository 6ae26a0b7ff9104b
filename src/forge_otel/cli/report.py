"""`forge-otel report`: what happened in a range of time, from the database."""

import asyncio
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from forge_otel.errors import ConfigurationError, NotFound, ServiceUnavailable, needs
from forge_otel.settings import Settings, mask_url

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    report = commands.add_parser("report", help="say what happened in a range of time, from FORGE_DATABASE_URL")
    report.add_argument("--from", dest="start", help="2026-03-01 or 2026-03-01T12:30:00Z (default: a week before --to)")
    report.add_argument("--to", dest="end", help="the first moment after the range (default: now)")
    report.add_argument("--type", dest="component_type", help="only this component type")
    report.add_argument("--format", default="table", choices=("table", "json", "csv", "html"))
    report.add_argument("--errors", type=int, default=10, help="how many types of error to show (default: 10)")
    report.set_defaults(command=_report)


def _report(arguments: Namespace) -> int:
    from forge_otel.database.analytics.report import parse_range, render
    from forge_otel.database.engine import parse_url

    with needs("sql"):
        from sqlalchemy.exc import SQLAlchemyError

    url = Settings.from_env(os.environ).database_url
    if url is None:
        raise ConfigurationError(["FORGE_DATABASE_URL is empty, so there is no database to report from"])
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        raise NotFound(f"there is no file {parsed.database}; name the service's own in FORGE_DATABASE_URL")
    asked = parse_range(arguments.start, arguments.end, arguments.component_type)
    try:
        found = asyncio.run(_read(url, asked, errors=arguments.errors))
    except (OSError, SQLAlchemyError) as exc:
        raise ServiceUnavailable(
            f"the database {mask_url(url)} does not answer, or has not the tables of this version "
            f"({type(exc).__name__}); `forge-otel migrate` makes them"
        ) from exc
    print(render(found, arguments.format), end="")
    return 0


async def _read(url: str, asked: Any, *, errors: int) -> Any:
    from forge_otel.database.analytics.report import report
    from forge_otel.database.engine import create_engine

    engine = create_engine(url, pool_size=1)
    try:
        return await report(engine, asked, errors=errors)
    finally:
        await engine.dispose()
