"""Rows that a batch adds to `rollups`; `forge_otel.database.facets` defines what they hold."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from forge_otel.database.facets import ALL_TYPES, DAY, HOUR, MAX_NAME_CHARS, UNKNOWN_TYPE
from forge_otel.database.histogram import bucket_of
from forge_otel.database.writing.row_mapping import MappedRows, Row, picked

__all__ = ["ROLLUP_COLUMNS", "ROLLUP_KEYS", "rollup_rows"]

ROLLUP_KEYS: Final = ("hours", "facet", "component_type", "start", "name", "bucket")
ROLLUP_COLUMNS: Final = (*ROLLUP_KEYS, "count", "hits", "cost_nano_usd", "saved_nano_usd")

_SECONDS: Final = 3600

# Facet, component type, hour or day since 1970, name, bucket.
_Key = tuple[str, str, int, str, int]
_Sums = dict[_Key, list[int]]


def rollup_rows(batch: MappedRows, cache_stats: Sequence[Row]) -> list[Row]:
    """Return the rows that a batch adds to `rollups`, sorted by key.

    Args:
        batch: the generations.
        cache_stats: the rows that they add to `cache_stats`.
    """
    hours: _Sums = {}
    for row, costs in zip(batch.rows, batch.costs, strict=True):
        _count(hours, row, costs)
    for minute, layer, kind, requests, hits, saved in cache_stats:
        key = ("layers", kind or UNKNOWN_TYPE, int(minute.timestamp()) // _SECONDS, layer[:MAX_NAME_CHARS], 0)
        _add(hours, key, requests, hits, 0, saved)
    for (facet, _, *rest), values in [*hours.items()]:
        _add(hours, (facet, ALL_TYPES, *rest), *values)  # type: ignore[arg-type]
    days: _Sums = {}
    for (facet, kind, hour, *rest), values in hours.items():
        _add(days, (facet, kind, hour // DAY, *rest), *values)  # type: ignore[arg-type]
    return [*_rows(HOUR, hours), *_rows(DAY, days)]


def _count(sums: _Sums, row: Row, costs: Sequence[Row]) -> None:
    created_at, duration_s, outcome, source, component_type, error_type, cost, saved = _COUNTED(row)
    hour, kind = int(created_at.timestamp()) // _SECONDS, component_type or UNKNOWN_TYPE
    is_ok = outcome == "ok"
    _add(sums, ("answers", kind, hour, source, int(is_ok)), 1, 0, cost, saved)
    if is_ok:
        _add(sums, ("latency", kind, hour, source, bucket_of(duration_s)), 1, 0, 0, 0)
    else:
        _add(sums, ("errors", kind, hour, (error_type or outcome)[:MAX_NAME_CHARS], 0), 1, 0, 0, 0)
    for _, _, api, *_, amount in costs:
        _add(sums, ("costs", kind, hour, api[:MAX_NAME_CHARS], int(amount is None)), 1, 0, amount or 0, 0)


def _add(sums: _Sums, key: _Key, count: int, hits: int, cost: int, saved: int) -> None:  # noqa: PLR0917 - hot
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


_COUNTED: Final = picked(
    *("created_at", "duration_s", "outcome", "source", "component_type", "error_type"),
    *("cost_nano_usd", "saved_nano_usd"),
)
