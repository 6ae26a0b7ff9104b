"""What is written beside the generations: what their calls cost, and the sums that the analytics read."""

from collections.abc import Sequence
from typing import Final

from forge_otel.database.writing.rollups import ROLLUP_COLUMNS, ROLLUP_KEYS, rollup_rows
from forge_otel.database.writing.row_mapping import CACHE_STAT_COLUMNS, MappedRows, cache_stat_rows

__all__ = ["SUMS", "AggregateRows", "add_statement"]

SUMS: Final = (("cache_stats", CACHE_STAT_COLUMNS, 3), ("rollups", ROLLUP_COLUMNS, len(ROLLUP_KEYS)))
"""Table, columns, how many of them are its key; the others are added up."""


class AggregateRows:
    """The rows of `costs`, and what is to be added to each table of sums.

    Args:
        batch: the generations that are new.
    """

    def __init__(self, batch: MappedRows) -> None:
        cache_stats = cache_stat_rows(batch.rows)
        self.costs = [row for rows in batch.costs for row in rows]
        self.sums = {"cache_stats": cache_stats, "rollups": rollup_rows(batch, cache_stats)}


def add_statement(table: str, columns: Sequence[str], *, keys: int, source: str) -> str:
    """Return the statement that adds what `source` selects to the sums in `table`."""
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in columns[keys:])
    conflict = f"ON CONFLICT ({', '.join(columns[:keys])}) DO UPDATE SET {sums}"
    return f"INSERT INTO {table} ({', '.join(columns)}) {source} {conflict}"
