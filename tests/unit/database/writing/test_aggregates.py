"""Rows of the tables of sums, without a database."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.unit.sinks.builders import record

from forge_otel.database.rollups import ALL_TYPES, DAY, HOUR, MAX_NAME_CHARS, bucket_of
from forge_otel.database.writing.aggregates import (
    CACHE_STAT_COLUMNS,
    ROLLUP_COLUMNS,
    AggregateRows,
    add_statement,
    cache_stat_rows,
)
from forge_otel.database.writing.row_mapping import COST_COLUMNS, MappedRows
from forge_otel.types import Record

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
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


def rollups(*records: Record, hours: int = HOUR, component_type: str = ALL_TYPES) -> list[dict[str, Any]]:
    """The rows that these records add, of one span and one component type."""
    rows = AggregateRows(MappedRows.of(records)).sums["rollups"]
    named = [dict(zip(ROLLUP_COLUMNS, row, strict=True)) for row in rows]
    return [row for row in named if row["hours"] == hours and row["component_type"] == component_type]


def test_every_facet_has_the_figures_of_its_table() -> None:
    """One generation adds its answer, its latency, its lookups and its costs; the unpriced call has its own bucket."""
    found = rollups(record(created_at=AT, duration_s=2.0, misses={"L1": "cold"}))

    shown = {
        (row["facet"], row["name"], row["bucket"]): (row["count"], row["hits"], row["cost_nano_usd"]) for row in found
    }
    assert shown == {
        ("answers", "L4", 1): (1, 0, 420_000_000),
        ("latency", "L4", bucket_of(2.0)): (1, 0, 0),
        ("layers", "L1", 0): (1, 0, 0),
        ("costs", "openai", 0): (1, 0, 420_000_000),
        ("costs", "figma", 1): (1, 0, 0),
    }


def test_hours_add_up_to_days_and_types_to_all() -> None:
    """Two hours and two component types: one row of the day over all types."""
    first = record(created_at=AT, component_type="card", cost_usd=Decimal(1))
    second = record(created_at=AT.replace(hour=13), cost_usd=Decimal(2))

    [day] = [row for row in rollups(first, second, hours=DAY) if row["facet"] == "answers"]

    assert (day["start"], day["count"], day["cost_nano_usd"]) == (AT.replace(hour=0, minute=0), 2, 3 * 10**9)
    assert len([row for row in rollups(first, second) if row["facet"] == "answers"]) == 2
    assert len([row for row in rollups(first, second, component_type="card") if row["facet"] == "answers"]) == 1


def test_failed_generations_count_as_errors_and_have_no_latency() -> None:
    """The error type names the row, else the outcome; names longer than the column are cut."""
    failed = record(outcome="error", error_type="E" * (MAX_NAME_CHARS + 1))
    late = record(outcome="timeout", error_type=None)

    found = rollups(failed, late)

    assert {row["name"] for row in found if row["facet"] == "errors"} == {"E" * MAX_NAME_CHARS, "timeout"}
    assert not [row for row in found if row["facet"] == "latency"]


def test_an_empty_component_type_is_counted_once() -> None:
    """The empty type stands for all types, so a generation without a type is stored as `unknown`."""
    [answer] = [row for row in rollups(record(component_type="")) if row["facet"] == "answers"]

    assert answer["count"] == 1
    assert rollups(record(component_type=""), component_type="unknown")
