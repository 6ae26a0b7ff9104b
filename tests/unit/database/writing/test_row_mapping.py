"""Records as rows, before any database has a say."""

from decimal import Decimal

from tests.unit.sinks.builders import record

from forge_otel.database.writing.aggregates import AggregateRows
from forge_otel.database.writing.row_mapping import COST_COLUMNS, MappedRows, picked

ID, NAME = picked("id", "component_name"), "component_name"


def test_rows_are_in_the_order_of_their_ids_and_the_last_one_counts() -> None:
    """Two writers of the same records lock them in the same order; what comes twice is one row with its own costs."""
    first, second, third = (record(id=f"id-{number}") for number in range(3))
    again = record(id=second.id, component_name="again", costs=second.costs[:1])

    batch = MappedRows.of([third, second, first, again])

    assert [ID(row) for row in batch.rows] == [(first.id, None), (second.id, "again"), (third.id, None)]
    assert [len(costs) for costs in batch.costs] == [2, 1, 2]


def test_of_a_batch_what_is_new_is_counted_with_its_costs() -> None:
    """What the database has already adds nothing to any table."""
    old, new = record(), record()

    beside = AggregateRows(MappedRows.of([old, new]).only({new.id}))

    assert {row[COST_COLUMNS.index("generation_id")] for row in beside.costs} == {new.id}
    assert beside.sums == AggregateRows(MappedRows.of([new])).sums


def test_only_texts_that_no_database_stores_are_changed() -> None:
    """One of many texts is mended, the others stay as they are; what is no text at all is left to the database."""
    odd = record(component_name="a\0\ud800", user_id="line\nline", tenant=7, session_id=None)

    [found] = map(picked(NAME, "user_id", "tenant", "session_id", "source"), MappedRows.of([odd]).rows)

    assert found == ("a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}", "line\nline", 7, None, "L4")


def test_tokens_of_all_calls_and_nano_dollars_rounded_to_even() -> None:
    """A generation's tokens are those of its calls; money finer than a nano-dollar is rounded, not cut."""
    paid = record(cost_usd=Decimal("2.5E-9"), saved_usd=Decimal("1.5E-9"))

    columns = ("input_uncached_tokens", "cache_read_tokens", "output_tokens", "cost_nano_usd", "saved_nano_usd")
    [found] = map(picked(*columns), MappedRows.of([paid]).rows)

    assert found == (1000, 500, 300, 2, 2)
    assert [row[-1] for row in MappedRows.of([paid]).costs[0]] == [420_000_000, None]
