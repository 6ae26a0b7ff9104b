"""Reads the sums of a range of time: whole days and hours from `rollups`, the rest of an hour from `generations`.

So a range may begin and end at any microsecond and is counted exactly, and a year costs hardly more than a day.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from forge_otel.database.models import Base
from forge_otel.database.rollups import DAY, HOUR, ROLLUP_KEYS, rollup_rows
from forge_otel.errors import BadRequest, needs
from forge_otel.types import Cost, Record

with needs("sql"):
    from sqlalchemy import BigInteger, ColumnElement, Select, func, select, type_coerce
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Range", "Sums", "edge_query", "read", "rollup_query"]

_ROLLUPS: Final = Base.metadata.tables["rollups"].c
_GENERATIONS: Final = Base.metadata.tables["generations"].c
_COSTS: Final = Base.metadata.tables["costs"].c
_VALUES: Final = ("count", "hits", "cost_nano_usd", "saved_nano_usd")
_HOUR: Final = timedelta(hours=HOUR)
_DAY: Final = timedelta(hours=DAY)

Sums = Mapping[tuple[Any, ...], Sequence[int]]
"""Key columns to count, hits, cost and saved, the last two in nano-dollars."""

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
        if start is not None and end is not None and start >= end:
            yield 0, (self.start, self.end)
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


async def read(
    connection: AsyncConnection, asked: Range, facets: Collection[str], keys: Sequence[str], *, largest: int = DAY
) -> Sums:
    """Return the sums of `facets` by `keys`, which are columns of the key of `rollups`.

    Args:
        connection: of our database.
        asked: the range.
        facets: as in `forge_otel.database.rollups`.
        keys: what to tell apart.
        largest: hours of the largest span that is read as one, where ``start`` is among the keys.
    """
    sums: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for hours, bounds in asked.spans(largest):
        if hours:
            query = rollup_query(hours, bounds, asked.component_type, facets=facets, keys=keys)
            found: Sequence[Any] = (await connection.execute(query)).all()
        else:
            records = await _records(connection, bounds, asked.component_type, with_costs="costs" in facets)
            found = _counted(records, facets, keys)
        for row in found:
            values = sums[tuple(row[: len(keys)])]
            for place, value in enumerate(row[len(keys) :]):
                values[place] += int(value)
    return sums


def rollup_query(
    hours: int, bounds: Bounds, component_type: str | None, *, facets: Collection[str], keys: Sequence[str]
) -> Select[Any]:
    """Return the query of whole hours or days."""
    columns = [_ROLLUPS[name] for name in keys]
    sums = [func.sum(type_coerce(_ROLLUPS[name], BigInteger)) for name in _VALUES]
    where = [_ROLLUPS.hours == hours, _ROLLUPS.facet.in_(sorted(facets)), *_within(_ROLLUPS.start, bounds)]
    if component_type is not None:
        where.append(_ROLLUPS.component_type == component_type)
    return select(*columns, *sums).where(*where).group_by(*columns)


def edge_query(bounds: Bounds, component_type: str | None) -> Select[Any]:
    """Return the query of generations within a part of an hour."""
    names = ("id", "created_at", "component_type", "source", "outcome", "duration_s", "error_type", "misses")
    where = _edge(bounds, component_type)
    return select(*(_GENERATIONS[name] for name in (*names, "cost_nano_usd", "saved_nano_usd"))).where(*where)


async def _records(
    connection: AsyncConnection, bounds: Bounds, component_type: str | None, *, with_costs: bool
) -> list[Record]:
    costs: defaultdict[str, list[Cost]] = defaultdict(list)
    if with_costs:
        query = select(_COSTS.generation_id, _COSTS.api, _COSTS.amount_nano_usd)
        joined = query.join_from(_COSTS.api.table, _GENERATIONS.id.table, _COSTS.generation_id == _GENERATIONS.id)
        for id_, api, amount in await connection.execute(joined.where(*_edge(bounds, component_type))):
            costs[id_].append(Cost(api=api, amount_usd=amount))
    return [
        Record(
            id=row.id,
            created_at=row.created_at,
            duration_s=row.duration_s,
            outcome=row.outcome,
            pipeline="",
            pipeline_version="",
            component_type=row.component_type,
            component_id="",
            key="",
            source=row.source,
            error_type=row.error_type,
            misses=row.misses,
            cost_usd=row.cost_nano_usd,
            saved_usd=row.saved_nano_usd,
            costs=tuple(costs[row.id]),
        )
        for row in await connection.execute(edge_query(bounds, component_type))
    ]


def _counted(records: Sequence[Record], facets: Collection[str], keys: Sequence[str]) -> list[Sequence[Any]]:
    """Count records as `rollups` does; they are few."""
    places = [ROLLUP_KEYS.index(name) for name in keys]
    facet = ROLLUP_KEYS.index("facet")
    return [
        [*(row[place] for place in places), *row[len(ROLLUP_KEYS) :]]
        for row in rollup_rows(records)
        if row[0] == HOUR and row[facet] in facets
    ]


def _edge(bounds: Bounds, component_type: str | None) -> list[ColumnElement[bool]]:
    where = _within(_GENERATIONS.created_at, bounds)
    return where if component_type is None else [*where, _GENERATIONS.component_type == component_type]


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
