"""Analytics queries over a half-open range [start, end) in UTC, with typed results.

Counts and money are exact. Percentiles are nearest-rank over buckets and within 5 %
(`forge_otel.database.rollups`). The queries read sums by day and hour, so their time does not grow with the number of
generations.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from forge_otel.database.analytics.time_ranges import (
    Histograms,
    Range,
    Sums,
    component_types,
    concurrently,
    histograms,
    read,
)
from forge_otel.database.rollups import DAY, HOUR, percentile
from forge_otel.errors import BadRequest, needs

with needs("sql"):
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "ApiCost",
    "Baseline",
    "ErrorCount",
    "Latency",
    "LayerFigures",
    "Range",
    "SeriesPoint",
    "Summary",
    "baseline",
    "costs",
    "errors",
    "layers",
    "series",
    "summary",
]

FULL_SOURCES: Final = ("L4",)
CACHED_SOURCES: Final = ("L1", "L2", "L3")
WEEK: Final = timedelta(days=7)
MAX_POINTS: Final = 400

MAX_BASELINE: Final = timedelta(days=31, hours=1)

_NANO: Final = Decimal(10) ** 9
_EVERYTHING: Final = Range()

_Table = dict[tuple[Any, ...], Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Durations of successful generations in seconds; the percentiles are None where there are none."""

    count: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Totals of a range.

    Args:
        by_source: number of generations by source, `L1` … `L4` and `collapsed`.
        errors: generations whose outcome is not `ok`.
        full: latency of generations that ran the whole pipeline.
        cached: latency of generations that a cache layer answered.
    """

    generations: int
    by_source: Mapping[str, int]
    errors: int
    cost_usd: Decimal
    saved_usd: Decimal
    full: Latency
    cached: Latency

    @property
    def success_rate(self) -> float | None:
        """Fraction (0 to 1) of generations whose outcome is `ok`; None where there are none."""
        return 1 - self.errors / self.generations if self.generations else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFigures:
    """Lookups, hits and savings of one cache layer."""

    layer: str
    requests: int
    hits: int
    hit_rate: float
    saved_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCost:
    """Cost of the calls to one paid service; `unpriced` counts the calls without a known price."""

    api: str
    calls: int
    unpriced: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCount:
    """Number of generations that ended with one type of error."""

    error_type: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPoint:
    """One hour or day of a time series.

    Args:
        start: of the hour or day, UTC; only generations inside the range are counted.
        hits: generations answered by a cache layer.
    """

    start: datetime
    generations: int
    errors: int
    hits: int
    cost_usd: Decimal
    saved_usd: Decimal
    latency: Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Full generations of one component type, compared with cached ones and with the same range a week before.

    Args:
        success_rate: fraction (0 to 1) of `ok` among the generations that no cache answered.
        by_api: their cost.
        week_before: latency of full generations a week before.
        degradation: relative growth of the 95th percentile since then, 0.1 for 10 %; None without a comparison.
    """

    component_type: str
    full: Latency
    cached: Latency
    success_rate: float | None
    by_api: Sequence[ApiCost]
    week_before: Latency
    degradation: float | None


async def summary(engine: AsyncEngine, requested: Range = _EVERYTHING) -> Summary:
    """Return the totals of a range."""
    answers, durations = await concurrently(
        engine,
        lambda connection: read(connection, requested, ("answers",), ("name", "bucket")),
        lambda connection: histograms(connection, requested, ("name",)),
    )
    return Summary(
        generations=sum(values[0] for values in answers.values()),
        by_source=_counted((source, values[0]) for (source, _), values in answers.items() if source),
        errors=sum(values[0] for (_, is_ok), values in answers.items() if not is_ok),
        cost_usd=_usd(values[2] for values in answers.values()),
        saved_usd=_usd(values[3] for values in answers.values()),
        full=_latency(durations, FULL_SOURCES),
        cached=_latency(durations, CACHED_SOURCES),
    )


async def layers(engine: AsyncEngine, requested: Range = _EVERYTHING) -> list[LayerFigures]:
    """Return the figures of every cache layer with a lookup."""
    async with engine.connect() as connection:
        found = await read(connection, requested, ("layers",), ("name",))
    return [
        LayerFigures(layer=layer, requests=requests, hits=hits, hit_rate=hits / requests, saved_usd=_usd([saved]))
        for (layer,), (requests, hits, _, saved) in sorted(found.items())
    ]


async def costs(engine: AsyncEngine, requested: Range = _EVERYTHING) -> list[ApiCost]:
    """Return the cost of each paid service, most expensive first."""
    async with engine.connect() as connection:
        found = await read(connection, requested, ("costs",), ("name", "bucket"))
    return _by_api(found)


async def errors(engine: AsyncEngine, requested: Range = _EVERYTHING, *, limit: int = 10) -> list[ErrorCount]:
    """Return the most frequent types of error; a failed generation without a type counts under its outcome.

    Args:
        engine: of our database.
        requested: the range.
        limit: maximum number of types.
    """
    async with engine.connect() as connection:
        found = await read(connection, requested, ("errors",), ("name",))
    counts = [ErrorCount(error_type=name, count=values[0]) for (name,), values in found.items()]
    return sorted(counts, key=lambda one: (-one.count, one.error_type))[:limit]


async def series(engine: AsyncEngine, requested: Range, *, step_hours: int = DAY) -> list[SeriesPoint]:
    """Return the figures of every hour or day with a generation.

    Args:
        engine: of our database.
        requested: the range.
        step_hours: 1 or 24.

    Raises:
        BadRequest: another step, an open range, or more than `MAX_POINTS` points.
    """
    if step_hours not in {HOUR, DAY}:
        raise BadRequest("a time series goes by the hour or by the day: step_hours is 1 or 24")
    if requested.start is None or requested.end is None:
        raise BadRequest("a time series needs a start and an end")
    if (requested.end - requested.start) / timedelta(hours=step_hours) > MAX_POINTS:
        raise BadRequest(f"a time series has at most {MAX_POINTS} points; take a shorter range or days")
    sums, durations = await concurrently(
        engine,
        lambda connection: read(connection, requested, ("answers",), ("start", "name", "bucket"), largest=step_hours),
        lambda connection: histograms(connection, requested, ("start",), largest=step_hours),
    )
    answers: defaultdict[datetime, _Table] = defaultdict(dict)
    latencies: defaultdict[datetime, Counter[int]] = defaultdict(Counter)
    # The hours at both ends of the range belong to a day.
    for start, table in _by_first(sums).items():
        _merge(answers[start.replace(hour=0) if step_hours == DAY else start], table)
    for (start,), counts in durations.items():
        latencies[start.replace(hour=0) if step_hours == DAY else start].update(counts)
    return [_point(start, answers[start], latencies[start]) for start in sorted(answers)]


async def baseline(engine: AsyncEngine, requested: Range) -> list[Baseline]:
    """Compare full generations with cached ones and with those a week before, for each component type.

    Raises:
        BadRequest: the range is open or longer than `MAX_BASELINE`.
    """
    if requested.start is None or requested.end is None or requested.end - requested.start > MAX_BASELINE:
        raise BadRequest(f"a baseline needs a start and an end, at most {MAX_BASELINE.days} days apart")
    keys = ("component_type", "name")
    async with engine.connect() as connection:
        types = await component_types(connection, requested)
    sources, week_before = (*FULL_SOURCES, *CACHED_SOURCES), requested.moved(-WEEK)
    sums, recent, before = await concurrently(
        engine,
        lambda connection: read(
            connection, requested, ("answers", "costs"), ("component_type", "facet", "name", "bucket"), types=types
        ),
        lambda connection: histograms(connection, requested, keys, types=types, names=sources),
        lambda connection: histograms(connection, week_before, keys, types=types, names=FULL_SOURCES),
    )
    now = _by_first(sums)
    return [_baseline(kind, now[kind], _of(recent, kind), _of(before, kind)) for kind in sorted(now)]


def _baseline(component_type: str, now: Sums, recent: Histograms, before: Histograms) -> Baseline:
    full, week_before = _latency(recent, FULL_SOURCES), _latency(before, FULL_SOURCES)
    uncached = {key: values for key, values in now.items() if key[0] == "answers" and key[1] in {*FULL_SOURCES, ""}}
    tried = sum(values[0] for values in uncached.values())
    good = sum(values[0] for (_, _, is_ok), values in uncached.items() if is_ok)
    return Baseline(
        component_type=component_type,
        full=full,
        cached=_latency(recent, CACHED_SOURCES),
        success_rate=good / tried if tried else None,
        by_api=_by_api({key[1:]: values for key, values in now.items() if key[0] == "costs"}),
        week_before=week_before,
        degradation=full.p95_s / week_before.p95_s - 1 if full.p95_s and week_before.p95_s else None,
    )


def _of(found: Histograms, component_type: str) -> Histograms:
    return {key[1:]: counts for key, counts in found.items() if key[0] == component_type}


def _point(start: datetime, answers: Sums, durations: Counter[int]) -> SeriesPoint:
    return SeriesPoint(
        start=start,
        generations=sum(values[0] for values in answers.values()),
        errors=sum(values[0] for (_, is_ok), values in answers.items() if not is_ok),
        hits=sum(values[0] for (source, is_ok), values in answers.items() if is_ok and source not in FULL_SOURCES),
        cost_usd=_usd(values[2] for values in answers.values()),
        saved_usd=_usd(values[3] for values in answers.values()),
        latency=_summed(durations),
    )


def _by_first(sums: Sums) -> dict[Any, _Table]:
    """Group sums by the value of the first key column."""
    found: defaultdict[Any, _Table] = defaultdict(dict)
    for (first, *key), values in sums.items():
        found[first][tuple(key)] = values
    return dict(found)


def _merge(table: _Table, other: Sums) -> None:
    for key, values in other.items():
        known = table.get(key)
        table[key] = values if known is None else [one + more for one, more in zip(known, values, strict=True)]


def _by_api(sums: Sums) -> list[ApiCost]:
    calls: Counter[str] = Counter()
    unpriced: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for (api, is_unpriced), (count, _, cost, _) in sums.items():
        calls[api] += count
        unpriced[api] += count if is_unpriced else 0
        spent[api] += cost
    by_cost = sorted(calls, key=lambda api: (-spent[api], api))
    return [ApiCost(api=api, calls=calls[api], unpriced=unpriced[api], cost_usd=_usd([spent[api]])) for api in by_cost]


def _latency(durations: Histograms, sources: Sequence[str]) -> Latency:
    counts: Counter[int] = Counter()
    for (source,), found in durations.items():
        if source in sources:
            counts.update(found)
    return _summed(counts)


def _summed(counts: Counter[int]) -> Latency:
    return Latency(
        count=counts.total(),
        p50_s=percentile(counts, 0.50),
        p95_s=percentile(counts, 0.95),
        p99_s=percentile(counts, 0.99),
    )


def _counted(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, count in pairs:
        counts[name] += count
    return dict(counts)


def _usd(nanos: Iterable[int]) -> Decimal:
    return Decimal(sum(nanos)) / _NANO
