"""Rows of the tables of sums, without a database."""

from datetime import UTC, datetime

from tests.unit.sinks.builders import record

from forge_otel.database.writing.aggregates import CACHE_STAT_COLUMNS, AggregateRows, add_statement, cache_stat_rows
from forge_otel.database.writing.row_mapping import COST_COLUMNS, MappedRows

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_only_new_generations_are_counted() -> None:
    """Generations that are stored already add nothing to any table."""
    old, new = record(), record()

    aggregates = AggregateRows(MappedRows.of([old, new]).only({new.id}))

    assert {row[COST_COLUMNS.index("generation_id")] for row in aggregates.costs} == {new.id}
    assert aggregates.sums == AggregateRows(MappedRows.of([new])).sums


def test_cache_lookups_are_summed_by_minute_layer_and_type() -> None:
    """Each layer that missed counts one request, and the layer that answered counts one hit and its savings."""
    missed = record(created_at=NOON, misses={"L1": "cold"}, source="L2", saved_usd=2)
    answered = record(created_at=NOON.replace(second=59), misses={}, source="L1", saved_usd=1)

    rows = cache_stat_rows(MappedRows.of([missed, answered]).rows)

    assert [dict(zip(CACHE_STAT_COLUMNS, row, strict=True)) for row in rows] == [
        {"minute": NOON, "layer": layer, "component_type": "button", "requests": requests, "hits": 1}
        | {"saved_nano_usd": saved * 10**9}
        for layer, requests, saved in (("L1", 2, 1), ("L2", 1, 2))
    ]


def test_the_pipeline_is_no_cache_layer() -> None:
    """A full generation counts the misses only."""
    rows = cache_stat_rows(MappedRows.of([record(misses={"L1": "cold"}, source="L4")]).rows)

    assert [(row[1], row[3], row[4]) for row in rows] == [("L1", 1, 0)]


def test_sums_are_added_on_conflict_of_the_key() -> None:
    """The leading columns are the conflict target; the remaining ones are added."""
    statement = add_statement("sums", ("day", "count"), keys=1, source="VALUES (?, ?)")

    assert statement == (
        "INSERT INTO sums (day, count) VALUES (?, ?) "
        "ON CONFLICT (day) DO UPDATE SET count = sums.count + excluded.count"
    )
