"""Aggregate rows that a batch adds to: `cache_stats` here, `rollups` in `forge_otel.database.writing.rollups`."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import orjson

from forge_otel.database.facets import layer_requests
from forge_otel.database.writing.rollups import ROLLUP_COLUMNS, ROLLUP_KEYS, rollup_rows
from forge_otel.database.writing.row_mapping import MappedRows, Row, picked

__all__ = ["CACHE_STAT_COLUMNS", "SUMS", "AggregateRows", "add_statement", "cache_stat_rows"]

_CACHE_STAT_KEYS: Final = ("minute", "layer", "component_type")
CACHE_STAT_COLUMNS: Final = (*_CACHE_STAT_KEYS, "requests", "hits", "saved_nano_usd")

SUMS: Final = (
    ("cache_stats", CACHE_STAT_COLUMNS, len(_CACHE_STAT_KEYS)),
    ("rollups", ROLLUP_COLUMNS, len(ROLLUP_KEYS)),
)
"""Table, columns, and the number of leading columns that form its key; the remaining columns are sums."""

_COUNTED: Final = picked("created_at", "component_type", "source", "misses", "saved_nano_usd")


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
    for created_at, component_type, source, misses, saved in map(_COUNTED, rows):
        minute = int(created_at.timestamp()) // 60
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
        (datetime.fromtimestamp(60 * minute, UTC), layer, component_type, *sums[minute, layer, component_type])
        for minute, layer, component_type in sorted(sums)
    ]


@lru_cache(maxsize=1024)
def _parsed_layer_requests(misses: str, source: str) -> tuple[tuple[str, bool], ...]:
    # Cached by the JSON text, because most batches repeat the same few combinations.
    return tuple(layer_requests(orjson.loads(misses), source).items())
