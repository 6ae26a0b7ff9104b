"""Mapping of records to rows, without a database."""

from decimal import Decimal

from tests.unit.sinks.builders import record

from forge_otel.database.models import Base
from forge_otel.database.writing.row_mapping import COST_COLUMNS, GENERATION_COLUMNS, MappedRows, picked

ID, NAME = picked("id", "component_name"), "component_name"


def test_the_columns_are_those_of_the_tables() -> None:
    """A field that is added to a record but not to its table, or that has a type without a conversion, fails here."""
    for table, columns in (("generations", GENERATION_COLUMNS), ("costs", COST_COLUMNS)):
        assert sorted(columns) == sorted(Base.metadata.tables[table].c.keys())


def test_rows_are_sorted_by_id_and_duplicates_are_merged() -> None:
    """Two writers of the same records lock them in the same order; of two records with one id the last is kept."""
    first, second, third = (record(id=f"id-{number}") for number in range(3))
    again = record(id=second.id, component_name="again", costs=second.costs[:1])

    batch = MappedRows.of([third, second, first, again])

    assert [ID(row) for row in batch.rows] == [(first.id, None), (second.id, "again"), (third.id, None)]
    assert [len(costs) for costs in batch.costs] == [2, 1, 2]


def test_only_characters_that_no_database_stores_are_replaced() -> None:
    """NUL and lone surrogates are replaced; other texts and values that are not strings are unchanged."""
    odd = record(component_name="a\0\ud800", user_id="line\nline", tenant=7, session_id=None)

    [found] = map(picked(NAME, "user_id", "tenant", "session_id", "source"), MappedRows.of([odd]).rows)

    assert found == ("a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}", "line\nline", 7, None, "L4")


def test_tokens_are_summed_and_money_is_rounded_half_to_even() -> None:
    """A generation's tokens are the sum of its calls; amounts are rounded to whole nano-dollars."""
    paid = record(cost_usd=Decimal("2.5E-9"), saved_usd=Decimal("1.5E-9"))

    columns = ("input_uncached_tokens", "cache_read_tokens", "output_tokens", "cost_nano_usd", "saved_nano_usd")
    [found] = map(picked(*columns), MappedRows.of([paid]).rows)

    assert found == (1000, 500, 300, 2, 2)
    assert [row[-1] for row in MappedRows.of([paid]).costs[0]] == [420_000_000, None]
