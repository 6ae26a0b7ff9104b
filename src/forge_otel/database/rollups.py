"""What the analytics read: sums by hour and by day, kept up to date by whoever writes generations.

A row of the table `rollups` is a sum over one span of time and one component type. What is counted is its *facet*:

============ ==================== ================================ ==================================
facet        name                 bucket                           count, hits, cost, saved
============ ==================== ================================ ==================================
``answers``  source               1 where the outcome is ``ok``    generations, -, cost, saved
``latency``  source               of `histogram`, ``ok`` only      generations
``costs``    API                  1 where no price is known        calls, -, cost
``errors``   type, else outcome   0                                generations
``layers``   cache layer          0                                look-ups, hits, -, saved
============ ==================== ================================ ==================================
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from forge_otel.database.histogram import bucket_of
from forge_otel.database.rows import Row, asked_layers, nano_usd, storable
from forge_otel.types import Record

__all__ = ["DAY", "HOUR", "ROLLUP_COLUMNS", "ROLLUP_KEYS", "rollup_rows"]

HOUR: Final = 1
DAY: Final = 24

ROLLUP_KEYS: Final = ("hours", "facet", "start", "component_type", "name", "bucket")
ROLLUP_COLUMNS: Final = (*ROLLUP_KEYS, "count", "hits", "cost_nano_usd", "saved_nano_usd")

_MAX_NAME_CHARS: Final = 256

Key = tuple[str, datetime, str, str, int]


def rollup_rows(records: Iterable[Record]) -> list[Row]:
    """Return what the records add to `rollups`, in the order of the keys, as `rows.cache_stat_rows` does."""
    hours: dict[Key, list[int]] = {}
    days: dict[Key, list[int]] = {}
    for record in records:
        start = record.created_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        component_type = storable(record.component_type)
        for facet, name, bucket, *values in _facets(record):
            _add(hours, (facet, start, component_type, name[:_MAX_NAME_CHARS], bucket), values)
    for (facet, start, *rest), values in hours.items():
        _add(days, (facet, start.replace(hour=0), *rest), values)  # type: ignore[arg-type]
    return [(grain, *key, *sums[key]) for grain, sums in ((HOUR, hours), (DAY, days)) for key in sorted(sums)]


def _facets(record: Record) -> Iterator[tuple[str, str, int, int, int, int, int]]:
    """Yield facet, name, bucket, count, hits, cost and saved of everything that one record is counted in."""
    source, is_ok = storable(record.source), record.outcome == "ok"
    saved = nano_usd(record.saved_usd)
    yield "answers", source, int(is_ok), 1, 0, nano_usd(record.cost_usd), saved
    if is_ok:
        yield "latency", source, bucket_of(record.duration_s), 1, 0, 0, 0
    else:
        yield "errors", storable(record.error_type or record.outcome), 0, 1, 0, 0, 0
    for cost in record.costs:
        amount = cost.amount_usd
        yield "costs", storable(cost.api), int(amount is None), 1, 0, 0 if amount is None else nano_usd(amount), 0
    for layer, is_hit in asked_layers(record).items():
        yield "layers", layer, 0, 1, int(is_hit), 0, saved if is_hit else 0


def _add(sums: dict[Key, list[int]], key: Key, values: list[int]) -> None:
    found = sums.get(key)
    if found is None:
        sums[key] = values[:]
        return
    for place, value in enumerate(values):
        found[place] += value
