"""Tests of reading usage, models and cost from span attributes."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_otel.names import Attr
from forge_otel.telemetry.genai.usage import partition, read_call, reported_call, same_model
from forge_otel.types import Usage

COUNT = st.integers(0, 10**6)


@given(COUNT, COUNT, st.data())
def test_parts_of_inclusive_counts_add_up(input_tokens: int, output_tokens: int, data: st.DataObject) -> None:
    """Cached and reasoning tokens are in one count each."""
    read = data.draw(st.integers(0, input_tokens))
    write = data.draw(st.integers(0, input_tokens - read))
    reasoning = data.draw(st.integers(0, output_tokens))
    usage = partition(input_tokens, output_tokens, cache_read=read, cache_write=write, reasoning=reasoning)
    assert (usage.input_tokens, usage.output_tokens) == (input_tokens, output_tokens)
    assert (usage.cache_read, usage.cache_write, usage.reasoning) == (read, write, reasoning)


def test_parts_outside_of_the_totals_are_recognized() -> None:
    """Some providers report cached tokens in addition to the input tokens."""
    usage = partition(10, 5, cache_read=100, reasoning=50)
    assert (usage.input_uncached, usage.cache_read, usage.output, usage.reasoning) == (10, 100, 5, 50)


@pytest.mark.parametrize(
    ("read", "write", "reasoning"),
    [
        ("cache_read.input_tokens", "cache_creation.input_tokens", "reasoning.output_tokens"),
        ("cache_read.input_tokens", "cache_write.input_tokens", "reasoning.output_tokens"),
        ("cache_read_input_tokens", "cache_creation_input_tokens", "reasoning_tokens"),
    ],
)
@pytest.mark.parametrize("totals", [("input_tokens", "output_tokens"), ("prompt_tokens", "completion_tokens")])
def test_counts_are_read_under_every_name(totals: tuple[str, str], read: str, write: str, reasoning: str) -> None:
    """Instrumentations of all versions are supported."""
    counts = {totals[0]: 100, totals[1]: 20, read: 30, write: 40, reasoning: 5}
    call = read_call({f"gen_ai.usage.{name}": count for name, count in counts.items()})
    assert call is not None
    assert call.usage == Usage(input_uncached=30, cache_read=30, cache_write=40, output=15, reasoning=5)


def test_a_span_of_an_older_convention_is_read() -> None:
    """The provider has its former name; the model of the response comes first."""
    call = read_call(
        {
            Attr.GEN_AI_SYSTEM: "openai",
            Attr.GEN_AI_REQUEST_MODEL: "gpt-4o",
            Attr.GEN_AI_RESPONSE_MODEL: "gpt-4o-2024-08-06",
            Attr.GEN_AI_INPUT_TOKENS: 7,
        }
    )
    assert call is not None
    assert (call.provider, call.models, call.model) == ("openai", ("gpt-4o-2024-08-06", "gpt-4o"), "gpt-4o")


@pytest.mark.parametrize("value", [True, -1, "7", 1.5, None, (1,), 2**60])
def test_an_invalid_count_is_ignored(value: Any) -> None:
    """Any library can set the attribute."""
    assert read_call({Attr.GEN_AI_INPUT_TOKENS: value}) is None


@pytest.mark.parametrize(("value", "cost"), [(0.25, Decimal("0.25")), ("0.25", Decimal("0.25")), (1, Decimal(1))])
def test_a_reported_cost_is_exact(value: Any, cost: Decimal) -> None:
    """A decimal keeps its digits."""
    call = read_call({Attr.GEN_AI_COST_USD: value})
    assert call is not None
    assert call.cost_usd == cost


@pytest.mark.parametrize("value", ["abc", float("nan"), float("inf"), -1, True])
def test_an_invalid_cost_is_ignored(value: Any) -> None:
    """Negative, infinite or not a number."""
    assert read_call({Attr.GEN_AI_COST_USD: value}) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("openai/gpt-4o", "gpt-4o", True),
        ("claude-sonnet-4", "claude-sonnet-4-20250514", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "o3", False),
    ],
)
def test_names_of_one_model_are_recognized(one: str, other: str, same: bool) -> None:
    """Prefixes of providers and suffixes of versions are ignored."""
    assert same_model(one, other) is same


def test_a_reported_call_has_disjoint_counts() -> None:
    """Like a call read from a span."""
    call = reported_call(100, 20, {"model": "m", "provider": "p", "cache_read_tokens": 40})
    assert (call.models, call.provider, call.usage.input_uncached, call.usage.cache_read) == (("m",), "p", 60, 40)
