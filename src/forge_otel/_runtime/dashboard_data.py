"""The figures of the dashboard: from the database where there is one, else from the last records of this process."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any, Final

from forge_otel.errors import BadRequest, NotFound, NotOpen, ServiceUnavailable, needs
from forge_otel.outbox.recent import RecentRecords
from forge_otel.types import ZERO_USD, Record
from forge_otel.types.capabilities import SupportsAnalytics

__all__ = ["report", "summary"]

_logger = logging.getLogger(__name__)

_ALL: Final = 10**6
_ASKABLE: Final = frozenset({"from", "to", "type", "format", "errors"})
_MEDIA_TYPES: Final = {"json": "application/json", "csv": "text/csv", "html": "text/html", "table": "text/plain"}
_FULL: Final = "L4"
_CACHED: Final = ("L1", "L2", "L3")


async def summary(database: SupportsAnalytics | None, recent: RecentRecords) -> dict[str, Any]:
    """Return generations, hits, latencies and money, JSON-ready; `scope` says what they are about.

    Args:
        database: the SQL sink, or None.
        recent: the last records of this process.
    """
    if database is not None:
        with needs("sql"):
            from sqlalchemy.exc import SQLAlchemyError

            from forge_otel.database.analytics import queries as analytics
        try:
            return _shown(asdict(await analytics.summary(database.analytics_engine())), scope="database")
        except (NotOpen, OSError, SQLAlchemyError) as exc:
            _logger.info("the figures come from this process alone: %s", type(exc).__name__)
    return _shown(_of_records(recent.records(_ALL)), scope="process")


async def report(database: SupportsAnalytics | None, asked: Mapping[str, str]) -> tuple[str, str]:
    """Return a report as text, and its media type.

    Args:
        database: the SQL sink, or None.
        asked: `from`, `to`, `type`, `format`, `errors`: what `forge-otel report` takes, all optional.

    Raises:
        BadRequest: something that is asked for cannot be understood, or is too much.
        NotFound: there is no database.
        ServiceUnavailable: it does not answer.
    """
    if unknown := asked.keys() - _ASKABLE:
        raise BadRequest(f"a report takes {', '.join(sorted(_ASKABLE))}, not {min(unknown)[:32]!r}")
    kind = asked.get("format", "json")
    if kind not in _MEDIA_TYPES:
        raise BadRequest(f"format is one of {', '.join(_MEDIA_TYPES)}, not {kind[:16]!r}")
    errors = asked.get("errors", "10")
    if not (errors.isascii() and errors.isdigit() and len(errors) < 4):
        raise BadRequest("errors is how many types of error to show, a number from 1 to 100")
    if database is None:
        raise NotFound("no database is configured, so there is nothing to report from; set FORGE_DATABASE_URL")
    with needs("sql"):
        from sqlalchemy.exc import SQLAlchemyError

        from forge_otel.database.analytics.report import parse_range, render, report
    within = parse_range(asked.get("from"), asked.get("to"), asked.get("type"))
    try:
        found = await report(database.analytics_engine(), within, errors=int(errors))
    except (NotOpen, OSError, SQLAlchemyError) as exc:
        raise ServiceUnavailable(f"the database does not answer ({type(exc).__name__}); try again later") from exc
    return render(found, kind), _MEDIA_TYPES[kind]


def _shown(figures: dict[str, Any], *, scope: str) -> dict[str, Any]:
    answered = sum(figures["by_source"].values())
    hits = answered - figures["by_source"].get(_FULL, 0)
    return figures | {
        "scope": scope,
        "hit_rate": hits / answered if answered else None,
        "cost_usd": str(figures["cost_usd"]),
        "saved_usd": str(figures["saved_usd"]),
    }


def _of_records(records: Sequence[Record]) -> dict[str, Any]:
    answered = [record for record in records if record.outcome == "ok"]
    return {
        "generations": len(records),
        "by_source": dict(Counter(record.source for record in answered)),
        "errors": len(records) - len(answered),
        "cost_usd": sum((record.cost_usd for record in records), ZERO_USD),
        "saved_usd": sum((record.saved_usd for record in records), Decimal(0)),
        "full": _latency([record.duration_s for record in answered if record.source == _FULL]),
        "cached": _latency([record.duration_s for record in answered if record.source in _CACHED]),
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
