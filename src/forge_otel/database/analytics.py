"""The questions asked of the generations, with typed answers; ranges are half open, [start, end), in UTC."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from forge_otel.database.models import Generation
from forge_otel.errors import needs

with needs("sql"):
    from sqlalchemy import ColumnElement, case, func, select
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["Latency", "Summary", "summary"]

FULL_SOURCES: Final = ("L4",)
CACHED_SOURCES: Final = ("L1", "L2", "L3")

_TABLE: Final = Generation.metadata.tables["generations"].c


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Durations of successful generations in seconds; percentiles by nearest rank, None without any."""

    count: int
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What happened in a range of time.

    Args:
        by_source: how many each layer answered, ``L1`` … ``L4`` and ``collapsed``.
        errors: generations whose outcome is not ``ok``.
        full: those that ran the whole pipeline.
        cached: those that a cache layer answered.
    """

    generations: int
    by_source: Mapping[str, int]
    errors: int
    cost_usd: Decimal
    saved_usd: Decimal
    full: Latency
    cached: Latency


async def summary(
    engine: AsyncEngine,
    start: datetime | None = None,
    end: datetime | None = None,
    component_type: str | None = None,
) -> Summary:
    """Sum up the generations that began in [`start`, `end`).

    Args:
        start, end: aware; None leaves the range open.
        component_type: only this type.
    """
    where = _where(start, end, component_type)
    is_error = case((_TABLE.outcome != "ok", 1), else_=0)
    query = (
        select(
            _TABLE.source,
            func.count(),
            func.sum(is_error),
            func.sum(_TABLE.cost_nano_usd),
            func.sum(_TABLE.saved_nano_usd),
        )
        .where(*where)
        .group_by(_TABLE.source)
    )
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).all()
        full = await _latency(connection, where, FULL_SOURCES)
        cached = await _latency(connection, where, CACHED_SOURCES)
    return Summary(
        generations=sum(row[1] for row in rows),
        by_source={row[0]: row[1] for row in rows if row[0]},
        errors=sum(row[2] for row in rows),
        cost_usd=sum((row[3] for row in rows), Decimal(0)),
        saved_usd=sum((row[4] for row in rows), Decimal(0)),
        full=full,
        cached=cached,
    )


def _where(start: datetime | None, end: datetime | None, component_type: str | None) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if start is not None:
        where.append(_TABLE.created_at >= start)
    if end is not None:
        where.append(_TABLE.created_at < end)
    if component_type is not None:
        where.append(_TABLE.component_type == component_type)
    return where


async def _latency(connection: AsyncConnection, where: list[ColumnElement[bool]], sources: tuple[str, ...]) -> Latency:
    answered = [*where, _TABLE.source.in_(sources), _TABLE.outcome == "ok"]
    count: int = (await connection.execute(select(func.count()).where(*answered))).scalar_one()

    async def percentile(share: float) -> Any:
        # Nearest rank: the smallest value that at least `share` of all are not above.
        rank = max(1, math.ceil(share * count))
        query = select(_TABLE.duration_s).where(*answered).order_by(_TABLE.duration_s).offset(rank - 1).limit(1)
        return (await connection.execute(query)).scalar_one_or_none()

    return Latency(count=count, p50_s=await percentile(0.50), p95_s=await percentile(0.95))
