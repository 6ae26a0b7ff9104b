"""Reads the sums of a range of time: whole days and hours from `rollups`, the rest of an hour from `generations`.

So a range may begin and end at any microsecond and is counted exactly, and a year costs hardly more than a day.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from forge_otel.database.analytics import partial_hours as edges
from forge_otel.database.facets import ALL_TYPES, DAY, HOUR
from forge_otel.database.models import Base
from forge_otel.errors import BadRequest, needs

with needs("sql"):
    from sqlalchemy import BigInteger, ColumnElement, Select, String, cast, func, select, type_coerce
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = [
    "Histograms",
    "Range",
    "Sums",
    "at_once",
    "component_types",
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

Question = Callable[[AsyncConnection], Awaitable[Any]]

Bounds = tuple[datetime | None, datetime | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The generations that began in [`start`, `end`), of one component type or of all.

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
                    raise BadRequest(f"the {name} of the range has no timezone; say 2026-03-01T00:00:00Z")
                object.__setattr__(self, name, moment.astimezone(UTC))
        if self.start is not None and self.end is not None and self.end < self.start:
            raise BadRequest(f"the range ends at {self.end.isoformat()}, before it starts at {self.start.isoformat()}")

    def moved(self, by: timedelta) -> "Range":
        """Return the same range at another time."""
        return Range(
            start=None if self.start is None else self.start + by,
            end=None if self.end is None else self.end + by,
            component_type=self.component_type,
        )

    def spans(self, largest: int = DAY) -> Iterator[tuple[int, Bounds]]:
        """Yield the parts of the range: hours of a row of `rollups`, or 0 for `generations`, and the bounds.

        Args:
            largest: no rows of more hours.
        """
        start, end = _up(self.start, _HOUR), _down(self.end, _HOUR)
        if self.start and start and end and self.end and start >= end:
            # No whole hour, but maybe the end of one and the beginning of the next.
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


async def at_once(engine: AsyncEngine, *questions: Question) -> list[Any]:
    """Ask on a connection each: while one database thread or process adds up, another does, or we do."""

    async def ask(question: Question) -> Any:
        async with engine.connect() as connection:
            return await question(connection)

    answers = await asyncio.gather(*(ask(question) for question in questions), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


async def read(
    connection: AsyncConnection,
    asked: Range,
    facets: Sequence[str],
    keys: Sequence[str],
    *,
    types: Sequence[str] = (),
    largest: int = DAY,
) -> Sums:
    """Return the sums of `facets` by `keys`, which are columns of the key of `rollups`.

    Args:
        connection: of our database.
        asked: the range.
        facets: as in `forge_otel.database.facets`.
        keys: what to tell apart.
        types: the component types, from `component_types`, where they are among the keys.
        largest: hours of the largest span that is read as one, where `start` is among the keys.
    """
    types = types or [asked.component_type or ALL_TYPES]
    sums: dict[tuple[Any, ...], list[int]] = {}
    for hours, bounds in asked.spans(largest):
        if hours:
            query = rollup_query(hours, bounds, types, facets=facets, keys=keys)
            _add(sums, (await connection.execute(query)).all(), len(keys))
        else:
            counted = await _edge(connection, asked, bounds, facets)
            _add(sums, [(*(facts[name] for name in keys), *values) for facts, values in counted], len(keys))
    return sums


async def histograms(
    connection: AsyncConnection,
    asked: Range,
    keys: Sequence[str],
    *,
    types: Sequence[str] = (),
    names: Sequence[str] | None = None,
    largest: int = DAY,
) -> Histograms:
    """Return the durations by `keys`.

    Args:
        connection: of our database.
        asked: the range.
        keys: what to tell apart: `component_type`, `name`, `start`.
        types: the component types, from `component_types`, where they are among the keys.
        names: only these sources.
        largest: hours of the largest span that is read as one, where `start` is among the keys.
    """
    types = types or [asked.component_type or ALL_TYPES]
    found: Histograms = {}
    for hours, bounds in asked.spans(largest):
        if hours:
            query = histogram_query(hours, bounds, types, keys=keys, names=names)
            for *key, buckets, counts in await connection.execute(query):
                counted = zip(map(int, buckets.split(",")), map(int, counts.split(",")), strict=True) if buckets else ()
                found.setdefault(tuple(key), Counter()).update(dict(counted))
            continue
        for facts, (count, *_) in await _edge(connection, asked, bounds, ("latency",)):
            if names is None or facts["name"] in names:
                found.setdefault(tuple(facts[name] for name in keys), Counter())[facts["bucket"]] += count
    return found


async def _edge(connection: AsyncConnection, asked: Range, bounds: Bounds, facets: Sequence[str]) -> edges.Counted:
    within = [*_within(_GENERATIONS.created_at, bounds), *_of_type(asked.component_type)]
    start = _down(bounds[0] or bounds[1], _HOUR)
    return [(facts | {"start": start}, values) for facts, values in await edges.count(connection, within, facets)]


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
    """Return the query of whole hours or days."""
    columns = [_ROLLUPS[name] for name in keys]
    # Durations are only counted.
    values = _VALUES[:1] if list(facets) == ["latency"] else _VALUES
    sums = [func.sum(type_coerce(_ROLLUPS[name], BigInteger)).label(name) for name in values]
    where = [
        _ROLLUPS.hours == hours,
        _ROLLUPS.facet.in_(facets),
        _ROLLUPS.component_type.in_(types),
        *_within(_ROLLUPS.start, bounds),
    ]
    if names is not None:
        where.append(_ROLLUPS.name.in_(names))
    return select(*columns, *sums).where(*where).group_by(*columns)


def histogram_query(
    hours: int, bounds: Bounds, types: Sequence[str], *, keys: Sequence[str], names: Sequence[str] | None = None
) -> Select[Any]:
    """Return the query of the durations of whole hours or days: a row for each histogram, not for each of its buckets.

    Its last columns are the buckets and their counts, in the same order, between commas: a year by the day is 400 rows,
    and would be 60 000.
    """
    counted = rollup_query(hours, bounds, types, facets=("latency",), keys=(*keys, "bucket"), names=names).subquery().c
    columns = [counted[name] for name in keys]
    lists = [func.aggregate_strings(cast(counted[name], String), ",") for name in ("bucket", "count")]
    return select(*columns, *lists).group_by(*columns)


async def component_types(connection: AsyncConnection, asked: Range) -> list[str]:
    """Return the component types that there are, or the one that is asked for."""
    if asked.component_type is not None:
        return [asked.component_type]
    where = (_ROLLUPS.hours == DAY, _ROLLUPS.facet == "answers", _ROLLUPS.component_type != ALL_TYPES)
    return list((await connection.execute(select(_ROLLUPS.component_type).distinct().where(*where))).scalars())


def _of_type(component_type: str | None) -> list[ColumnElement[bool]]:
    return [] if component_type is None else [_GENERATIONS.component_type == component_type]


def _within(column: Any, bounds: Bounds) -> list[ColumnElement[bool]]:
    start, end = bounds
    found = [] if start is None else [column >= start]
    return found if end is None else [*found, column < end]


def _down(moment: datetime | None, step: timedelta) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(hour=moment.hour if step < _DAY else 0, minute=0, second=0, microsecond=0)


def _up(moment: datetime | None, step: timedelta) -> datetime | None:
    below = _down(moment, step)
    return below if below is None or below == moment else below + step
