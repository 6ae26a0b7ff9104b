"""Sums over a time range: whole days and hours from `rollups`, partial hours from `generations`.

A range may begin and end at any microsecond and is counted exactly; a year costs hardly more than a day.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from forge_otel.database.analytics.partial_hours import Counted, count
from forge_otel.database.models import Base
from forge_otel.database.rollups import ALL_TYPES, DAY, HOUR
from forge_otel.errors import BadRequest, needs

with needs("sql"):
    from sqlalchemy import BigInteger, ColumnElement, Select, String, cast, func, select, type_coerce
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = [
    "Histograms",
    "Range",
    "Sums",
    "component_types",
    "concurrently",
    "histogram_query",
    "histograms",
    "read",
    "rollup_query",
]

_ROLLUPS: Final = Base.metadata.tables["rollups"].c
_GENERATIONS: Final = Base.metadata.tables["generations"].c
_VALUES: Final = ("count", "hits", "cost_nano_usd", "saved_nano_usd")
_HOUR: Final = timedelta(hours=HOUR)
_DAY: Final = timedelta(hours=DAY)

Sums = Mapping[tuple[Any, ...], Sequence[int]]
"""Key columns to count, hits, cost and saved, the last two in nano-dollars."""

Histograms = dict[tuple[Any, ...], Counter[int]]
"""Key columns to bucket to the number of durations in it."""

Query = Callable[[AsyncConnection], Awaitable[Any]]

Bounds = tuple[datetime | None, datetime | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Generations that began in [`start`, `end`), of one component type or of all.

    Args:
        start, end: aware; None leaves the range open.
        component_type: only this type.

    Raises:
        BadRequest: a bound is naive, or the end is before the start.
    """

    start: datetime | None = None
    end: datetime | None = None
    component_type: str | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            moment = getattr(self, name)
            if moment is not None:
                if moment.utcoffset() is None:
                    raise BadRequest(f"the {name} of the range has no timezone; write 2026-03-01T00:00:00Z")
                object.__setattr__(self, name, moment.astimezone(UTC))
        if self.start is not None and self.end is not None and self.end < self.start:
            raise BadRequest(f"the range ends at {self.end.isoformat()}, before it starts at {self.start.isoformat()}")

    def moved(self, by: timedelta) -> "Range":
        """Return the range shifted by a time span."""
        return Range(
            start=None if self.start is None else self.start + by,
            end=None if self.end is None else self.end + by,
            component_type=self.component_type,
        )

    def spans(self, largest: int = DAY) -> Iterator[tuple[int, Bounds]]:
        """Yield the bounds of each part of the range, with the span of its `rollups` in hours or 0 for `generations`.

        Args:
            largest: maximum span in hours.
        """
        start, end = _up(self.start, _HOUR), _down(self.end, _HOUR)
        if self.start and start and end and self.end and start >= end:
            # No whole hour, but possibly the end of one hour and the beginning of the next.
            middle = min(start, self.end)
            yield from ((0, bounds) for bounds in ((self.start, middle), (middle, self.end)) if bounds[0] < bounds[1])
            return
        if start != self.start:
            yield 0, (self.start, start)
        if end != self.end:
            yield 0, (end, self.end)
        first, last = _up(start, _DAY), _down(end, _DAY)
        if largest < DAY or (first is not None and last is not None and first >= last):
            yield HOUR, (start, end)
            return
        yield DAY, (first, last)
        if first != start:
            yield HOUR, (start, first)
        if last != end:
            yield HOUR, (last, end)


async def concurrently(engine: AsyncEngine, *queries: Query) -> list[Any]:
    """Run queries concurrently, each on a connection of its own; return their results in order."""

    async def run(query: Query) -> Any:
        async with engine.connect() as connection:
            return await query(connection)

    # Exceptions are collected, so that no query is still running when the first one is raised.
    results = await asyncio.gather(*(run(query) for query in queries), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def read(
    connection: AsyncConnection,
    requested: Range,
    facets: Sequence[str],
    keys: Sequence[str],
    *,
    types: Sequence[str] = (),
    largest: int = DAY,
) -> Sums:
    """Return the sums of `facets` by `keys`, which are columns of the key of `rollups`.

    Args:
        connection: of our database.
        requested: the range.
        facets: as in `forge_otel.database.rollups`.
        keys: columns to group by.
        types: the component types, from `component_types`, where `component_type` is among the keys.
        largest: maximum span in hours of the rollups to read, where `start` is among the keys.
    """
    types = types or [requested.component_type or ALL_TYPES]
    sums: dict[tuple[Any, ...], list[int]] = {}
    for hours, bounds in requested.spans(largest):
        if hours:
            query = rollup_query(hours, bounds, types, facets=facets, keys=keys)
            _add(sums, (await connection.execute(query)).all(), len(keys))
        else:
            counted = await _hour_part(connection, requested, bounds, facets)
            _add(sums, [(*(columns[name] for name in keys), *values) for columns, values in counted], len(keys))
    return sums


async def histograms(
    connection: AsyncConnection,
    requested: Range,
    keys: Sequence[str],
    *,
    types: Sequence[str] = (),
    names: Sequence[str] | None = None,
    largest: int = DAY,
) -> Histograms:
    """Return the latency histograms by `keys`.

    Args:
        connection: of our database.
        requested: the range.
        keys: columns to group by: `component_type`, `name`, `start`.
        types: the component types, from `component_types`, where `component_type` is among the keys.
        names: only these sources; None for all.
        largest: maximum span in hours of the rollups to read, where `start` is among the keys.
    """
    types = types or [requested.component_type or ALL_TYPES]
    found: Histograms = {}
    for hours, bounds in requested.spans(largest):
        if hours:
            query = histogram_query(hours, bounds, types, keys=keys, names=names)
            for *key, buckets, counts in await connection.execute(query):
                counted = zip(map(int, buckets.split(",")), map(int, counts.split(",")), strict=True) if buckets else ()
                found.setdefault(tuple(key), Counter()).update(dict(counted))
            continue
        for columns, (generations, *_) in await _hour_part(connection, requested, bounds, ("latency",)):
            if names is None or columns["name"] in names:
                found.setdefault(tuple(columns[name] for name in keys), Counter())[columns["bucket"]] += generations
    return found


async def _hour_part(connection: AsyncConnection, requested: Range, bounds: Bounds, facets: Sequence[str]) -> Counted:
    within = [*_within(_GENERATIONS.created_at, bounds), *_of_type(requested.component_type)]
    start = _down(bounds[0] or bounds[1], _HOUR)
    return [(keys | {"start": start}, values) for keys, values in await count(connection, within, facets)]


def _add(sums: dict[tuple[Any, ...], list[int]], rows: Sequence[Any], width: int) -> None:
    for row in rows:
        cells = tuple(row)
        key, values = cells[:width], cells[width:]
        known = sums.get(key)
        sums[key] = (
            [int(value) for value in values]
            if known is None
            else [one + int(more) for one, more in zip(known, values, strict=True)]
        )


def rollup_query(
    hours: int,
    bounds: Bounds,
    types: Sequence[str],
    *,
    facets: Sequence[str],
    keys: Sequence[str],
    names: Sequence[str] | None = None,
) -> Select[Any]:
    """Return the query for the sums of whole hours or days."""
    columns = [_ROLLUPS[name] for name in keys]
    # Of a latency only the count is used.
    values = _VALUES[:1] if list(facets) == ["latency"] else _VALUES
    # As integers, because the type of the money columns would convert every sum to a Decimal.
    sums = [func.sum(type_coerce(_ROLLUPS[name], BigInteger)).label(name) for name in values]
    where = [
        _ROLLUPS.hours == hours,
        _ROLLUPS.facet.in_(facets),
        # Always given: the type precedes the time in the key of the table, which is read in ranges.
        _ROLLUPS.component_type.in_(types),
        *_within(_ROLLUPS.start, bounds),
    ]
    if names is not None:
        where.append(_ROLLUPS.name.in_(names))
    return select(*columns, *sums).where(*where).group_by(*columns)


def histogram_query(
    hours: int, bounds: Bounds, types: Sequence[str], *, keys: Sequence[str], names: Sequence[str] | None = None
) -> Select[Any]:
    """Return the query for the latency histograms of whole hours or days.

    The last two columns of each row are the buckets and their counts, in the same order, as comma-separated lists.
    """
    # One row for each histogram instead of one for each bucket: 400 rows instead of 60,000 for a year by day.
    counted = rollup_query(hours, bounds, types, facets=("latency",), keys=(*keys, "bucket"), names=names).subquery().c
    columns = [counted[name] for name in keys]
    lists = [func.aggregate_strings(cast(counted[name], String), ",") for name in ("bucket", "count")]
    return select(*columns, *lists).group_by(*columns)


async def component_types(connection: AsyncConnection, requested: Range) -> list[str]:
    """Return the component type of the range, or all stored component types."""
    if requested.component_type is not None:
        return [requested.component_type]
    where = (_ROLLUPS.hours == DAY, _ROLLUPS.facet == "answers", _ROLLUPS.component_type != ALL_TYPES)
    return list((await connection.execute(select(_ROLLUPS.component_type).distinct().where(*where))).scalars())


def _of_type(component_type: str | None) -> list[ColumnElement[bool]]:
    return [] if component_type is None else [_GENERATIONS.component_type == component_type]


def _within(column: Any, bounds: Bounds) -> list[ColumnElement[bool]]:
    start, end = bounds
    found = [] if start is None else [column >= start]
    return found if end is None else [*found, column < end]


def _down(moment: datetime | None, step: timedelta) -> datetime | None:
    """Round down to a whole hour or day."""
    if moment is None:
        return None
    return moment.replace(hour=moment.hour if step < _DAY else 0, minute=0, second=0, microsecond=0)


def _up(moment: datetime | None, step: timedelta) -> datetime | None:
    """Round up to a whole hour or day."""
    below = _down(moment, step)
    return below if below is None or below == moment else below + step
