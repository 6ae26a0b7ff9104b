"""Figures of the dashboard, from the database or, without one, from the last records of this process."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any, Final

from forge_otel.errors import BadRequest, NotFound, NotOpen, ServiceUnavailable, needs
from forge_otel.outbox.recent import RecentRecords
from forge_otel.telemetry.unrecorded import UnrecordedActivity
from forge_otel.types import ZERO_USD, Record
from forge_otel.types.capabilities import SqlDatabase

__all__ = ["report", "summary"]

_logger = logging.getLogger(__name__)

_ALL: Final = 10**6
_REPORT_OPTIONS: Final = frozenset({"from", "to", "type", "format", "errors"})
_MEDIA_TYPES: Final = {"json": "application/json", "csv": "text/csv", "html": "text/html", "table": "text/plain"}
_FULL: Final = "L4"
_CACHED: Final = ("L1", "L2", "L3")


async def summary(
    database: SqlDatabase | None, recent: RecentRecords, unrecorded: UnrecordedActivity | None = None
) -> dict[str, Any]:
    """Return generations, hits, latencies and costs, JSON-ready; `scope` is `database` or `process`.

    Args:
        database: queried if there is one.
        recent: the last records of this process, used without a database.
        unrecorded: costs and failures without a record, which are added to the totals.
    """
    if database is not None:
        with needs("sql"):
            from sqlalchemy.exc import SQLAlchemyError

            from forge_otel.database.analytics import queries as analytics
        try:
            found = asdict(await analytics.summary(database.analytics_engine()))
            return _json_ready(found, unrecorded, scope="database")
        except (NotOpen, OSError, SQLAlchemyError) as exc:
            _logger.info("dashboard figures limited to this process: %s", type(exc).__name__)
    return _json_ready(_figures(recent.records(_ALL)), unrecorded, scope="process")


async def report(database: SqlDatabase | None, requested: Mapping[str, str]) -> tuple[str, str]:
    """Return a report as text, and its media type.

    Args:
        database: queried if there is one.
        requested: `from`, `to`, `type`, `format` and `errors`, all optional, as `forge-otel report` takes them.

    Raises:
        BadRequest: an option is malformed or out of bounds.
        NotFound: no database is configured.
        ServiceUnavailable: the database does not respond.
    """
    if unknown := requested.keys() - _REPORT_OPTIONS:
        raise BadRequest(f"a report takes {', '.join(sorted(_REPORT_OPTIONS))}, not {min(unknown)[:32]!r}")
    kind = requested.get("format", "json")
    if kind not in _MEDIA_TYPES:
        raise BadRequest(f"format is one of {', '.join(_MEDIA_TYPES)}, not {kind[:16]!r}")
    errors = requested.get("errors", "10")
    # `isdigit` alone also accepts superscripts, which `int` refuses.
    if not (errors.isascii() and errors.isdigit() and len(errors) < 4):
        raise BadRequest("errors is the number of error types to show, from 1 to 100")
    if database is None:
        raise NotFound("no database is configured; set FORGE_DATABASE_URL to get reports")
    with needs("sql"):
        from sqlalchemy.exc import SQLAlchemyError

        from forge_otel.database.analytics.report import parse_range, render, report
    within = parse_range(requested.get("from"), requested.get("to"), requested.get("type"))
    try:
        found = await report(database.analytics_engine(), within, errors=int(errors))
    except (NotOpen, OSError, SQLAlchemyError) as exc:
        raise ServiceUnavailable(f"the database does not respond ({type(exc).__name__}); try again later") from exc
    return render(found, kind), _MEDIA_TYPES[kind]


def _json_ready(figures: dict[str, Any], unrecorded: UnrecordedActivity | None, *, scope: str) -> dict[str, Any]:
    unrecorded = unrecorded or UnrecordedActivity()
    succeeded = sum(figures["by_source"].values())
    hits = succeeded - figures["by_source"].get(_FULL, 0)
    return figures | {
        "scope": scope,
        "hit_rate": hits / succeeded if succeeded else None,
        "errors": figures["errors"] + unrecorded.failed_requests,
        "cost_usd": str(figures["cost_usd"] + unrecorded.cost_usd),
        "unrecorded": unrecorded.figures(),
        "saved_usd": str(figures["saved_usd"]),
    }


def _figures(records: Sequence[Record]) -> dict[str, Any]:
    succeeded = [record for record in records if record.outcome == "ok"]
    return {
        "generations": len(records),
        "by_source": dict(Counter(record.source for record in succeeded)),
        "errors": len(records) - len(succeeded),
        "cost_usd": sum((record.cost_usd for record in records), ZERO_USD),
        "saved_usd": sum((record.saved_usd for record in records), Decimal(0)),
        "full": _latency([record.duration_s for record in succeeded if record.source == _FULL]),
        "cached": _latency([record.duration_s for record in succeeded if record.source in _CACHED]),
    }


def _latency(durations_s: list[float]) -> dict[str, Any]:
    ordered = sorted(durations_s)

    def percentile(share: float) -> float | None:
        return ordered[max(1, math.ceil(share * len(ordered))) - 1] if ordered else None

    return {
        "count": len(ordered),
        "p50_s": percentile(0.50),
        "p95_s": percentile(0.95),
        "p99_s": percentile(0.99),
    }
