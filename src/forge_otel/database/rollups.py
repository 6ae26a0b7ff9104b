"""What the analytics read: sums by hour and by day, kept up to date by whoever writes generations.

A row of the table `rollups` is a sum over one span of time and one component type, or over all of them where that is
empty. What is counted is its *facet*:

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

__all__ = ["ALL_TYPES", "DAY", "HOUR", "MAX_NAME_CHARS", "ROLLUP_COLUMNS", "ROLLUP_KEYS", "rollup_rows"]

HOUR: Final = 1
DAY: Final = 24

ROLLUP_KEYS: Final = ("hours", "facet", "component_type", "start", "name", "bucket")
ROLLUP_COLUMNS: Final = (*ROLLUP_KEYS, "count", "hits", "cost_nano_usd", "saved_nano_usd")

ALL_TYPES: Final = ""
MAX_NAME_CHARS: Final = 256

_SECONDS: Final = 3600
# Or it would be counted among all types twice.
_NO_TYPE: Final = "unknown"

# Facet, component type, hour or day since 1970, name, bucket.
Key = tuple[str, str, int, str, int]
_Sums = dict[Key, list[int]]


def rollup_rows(records: Iterable[Record]) -> list[Row]:
    """Return what the records add to `rollups`, in the order of the keys, as `rows.cache_stat_rows` does."""
    hours: _Sums = {}
    for record in records:
        _count(hours, record)
    for (facet, _, *rest), values in [*hours.items()]:
        _add(hours, (facet, ALL_TYPES, *rest), *values)  # type: ignore[arg-type]
    days: _Sums = {}
    for (facet, kind, hour, *rest), values in hours.items():
        _add(days, (facet, kind, hour // DAY, *rest), *values)  # type: ignore[arg-type]
    return [*_rows(HOUR, hours), *_rows(DAY, days)]


def _count(sums: _Sums, record: Record) -> None:
    hour, kind = int(record.created_at.timestamp()) // _SECONDS, storable(record.component_type) or _NO_TYPE
    source, saved = storable(record.source), nano_usd(record.saved_usd)
    is_ok = record.outcome == "ok"
    _add(sums, ("answers", kind, hour, source, int(is_ok)), 1, 0, nano_usd(record.cost_usd), saved)
    if is_ok:
        _add(sums, ("latency", kind, hour, source, bucket_of(record.duration_s)), 1, 0, 0, 0)
    else:
        error = storable(record.error_type or record.outcome)[:MAX_NAME_CHARS]
        _add(sums, ("errors", kind, hour, error, 0), 1, 0, 0, 0)
    for cost in record.costs:
        amount, api = cost.amount_usd, storable(cost.api)[:MAX_NAME_CHARS]
        if amount is None:
            _add(sums, ("costs", kind, hour, api, 1), 1, 0, 0, 0)
        else:
            _add(sums, ("costs", kind, hour, api, 0), 1, 0, nano_usd(amount), 0)
    for layer, is_hit in asked_layers(record.misses, record.source).items():
        _add(sums, ("layers", kind, hour, layer[:MAX_NAME_CHARS], 0), 1, int(is_hit), 0, saved if is_hit else 0)


def _add(sums: _Sums, key: Key, count: int, hits: int, cost: int, saved: int) -> None:  # noqa: PLR0917 - hot
    found = sums.get(key)
    if found is None:
        sums[key] = [count, hits, cost, saved]
        return
    found[0] += count
    found[1] += hits
    found[2] += cost
    found[3] += saved


def _rows(hours: int, sums: _Sums) -> Iterator[Row]:
    for key in sorted(sums):
        facet, kind, number, *rest = key
        yield hours, facet, kind, datetime.fromtimestamp(number * hours * _SECONDS, UTC), *rest, *sums[key]
