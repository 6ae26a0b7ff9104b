"""Aggregate rows: the sums that a batch of generations adds to `cache_stats` and `rollups`.

`forge_otel.database.rollups` defines what a row of `rollups` holds.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import orjson

from forge_otel.database.rollups import (
    ALL_TYPES,
    DAY,
    HOUR,
    MAX_NAME_CHARS,
    UNKNOWN_TYPE,
    bucket_of,
    layer_requests,
)
from forge_otel.database.writing.row_mapping import MappedRows, Row, picked

__all__ = [
    "CACHE_STAT_COLUMNS",
    "ROLLUP_COLUMNS",
    "ROLLUP_KEYS",
    "SUMS",
    "AggregateRows",
    "add_statement",
    "cache_stat_rows",
    "rollup_rows",
]

_CACHE_STAT_KEYS: Final = ("minute", "layer", "component_type")
CACHE_STAT_COLUMNS: Final = (*_CACHE_STAT_KEYS, "requests", "hits", "saved_nano_usd")

ROLLUP_KEYS: Final = ("hours", "facet", "component_type", "start", "name", "bucket")
ROLLUP_COLUMNS: Final = (*ROLLUP_KEYS, "count", "hits", "cost_nano_usd", "saved_nano_usd")

SUMS: Final = (
    ("cache_stats", CACHE_STAT_COLUMNS, len(_CACHE_STAT_KEYS)),
    ("rollups", ROLLUP_COLUMNS, len(ROLLUP_KEYS)),
)
"""Table, columns, and the number of leading columns that form its key; the remaining columns are sums."""

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_LOOKED_UP: Final = picked("created_at", "component_type", "source", "misses", "saved_nano_usd")
_ROLLED_UP: Final = picked(
    *("created_at", "duration_s", "outcome", "source", "component_type", "error_type"),
    *("cost_nano_usd", "saved_nano_usd"),
)

# Facet, component type, hour or day since 1970, name, bucket.
_Key = tuple[str, str, int, str, int]
_Sums = dict[_Key, list[int]]


class AggregateRows:
    """The rows of `costs`, and the rows to add to each table of sums.

    Args:
        batch: the generations that are new to the database.
    """

    def __init__(self, batch: MappedRows) -> None:
        cache_stats = cache_stat_rows(batch.rows)
        self.costs = [row for rows in batch.costs for row in rows]
        self.sums = {"cache_stats": cache_stats, "rollups": rollup_rows(batch, cache_stats)}


def add_statement(table: str, columns: Sequence[str], *, keys: int, source: str) -> str:
    """Return the upsert that adds the rows of `source` to the sums in `table`."""
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in columns[keys:])
    conflict = f"ON CONFLICT ({', '.join(columns[:keys])}) DO UPDATE SET {sums}"
    return f"INSERT INTO {table} ({', '.join(columns)}) {source} {conflict}"


def cache_stat_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows to add to `cache_stats`: one for each minute, layer and component type, sorted by that key.

    Args:
        rows: of `generations`.
    """
    sums: dict[tuple[int, str, str], list[int]] = {}
    for created_at, component_type, source, misses, saved in map(_LOOKED_UP, rows):
        minute = int(created_at.timestamp()) // _MINUTE_S
        for layer, is_hit in _parsed_layer_requests(misses, source):
            key = (minute, layer, component_type)
            row = sums.get(key)
            if row is None:
                row = sums[key] = [0, 0, 0]
            row[0] += 1
            if is_hit:
                row[1] += 1
                row[2] += saved
    # Two writers lock the rows in the same order, and cannot deadlock.
    return [
        (datetime.fromtimestamp(_MINUTE_S * minute, UTC), layer, component_type, *sums[minute, layer, component_type])
        for minute, layer, component_type in sorted(sums)
    ]


@lru_cache(maxsize=1024)
def _parsed_layer_requests(misses: str, source: str) -> tuple[tuple[str, bool], ...]:
    # Cached by the JSON text, because most batches repeat the same few combinations.
    return tuple(layer_requests(orjson.loads(misses), source).items())


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
        key = ("layers", kind or UNKNOWN_TYPE, int(minute.timestamp()) // _HOUR_S, layer[:MAX_NAME_CHARS], 0)
        _add(hours, key, requests, hits, 0, saved)
    # A copy, because the sums of all types are added to the same dictionary.
    for (facet, _, *rest), values in [*hours.items()]:
        _add(hours, (facet, ALL_TYPES, *rest), *values)  # type: ignore[arg-type]
    days: _Sums = {}
    for (facet, kind, hour, *rest), values in hours.items():
        _add(days, (facet, kind, hour // DAY, *rest), *values)  # type: ignore[arg-type]
    return [*_rollups(HOUR, hours), *_rollups(DAY, days)]


def _count(sums: _Sums, row: Row, costs: Sequence[Row]) -> None:
    created_at, duration_s, outcome, source, component_type, error_type, cost, saved = _ROLLED_UP(row)
    hour, kind = int(created_at.timestamp()) // _HOUR_S, component_type or UNKNOWN_TYPE
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


def _rollups(hours: int, sums: _Sums) -> Iterator[Row]:
    # As above: in one order, so that concurrent writers cannot deadlock.
    for key in sorted(sums):
        facet, kind, number, *rest = key
        yield hours, facet, kind, datetime.fromtimestamp(number * hours * _HOUR_S, UTC), *rest, *sums[key]
