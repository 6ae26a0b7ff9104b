"""Tests of the recognition of model calls that were counted already."""

import pytest

from forge_otel.telemetry.genai.deduplication import SeenCalls
from forge_otel.telemetry.genai.usage import ModelCall, partition


def call(input_tokens: int, output_tokens: int, model: str = "gpt-4o") -> ModelCall:
    """Return a model call."""
    return ModelCall(usage=partition(input_tokens, output_tokens), models=(model,) if model else ())


@pytest.mark.parametrize(("model", "repeats"), [("openai/gpt-4o-2024-08-06", True), ("", True), ("o3", False)])
def test_a_span_repeats_the_model_of_a_call_below(model: str, repeats: bool) -> None:
    """With any counts, because a framework sums them up."""
    seen = SeenCalls()
    seen.add(call(10, 1), is_reported=False)
    assert seen.has_model_of(call(99, 9, model)) is repeats


def test_a_reported_call_repeats_an_instrumented_one_once() -> None:
    """A second report of the same counts is another call."""
    seen = SeenCalls()
    seen.add(call(10, 1), is_reported=False)
    assert not seen.take(call(10, 2))
    assert seen.take(call(10, 1))
    assert not seen.take(call(10, 1))


def test_a_reported_call_may_be_the_sum_of_instrumented_ones() -> None:
    """The sum removes all of them."""
    seen = SeenCalls()
    seen.add(call(10, 1), is_reported=False)
    seen.add(call(20, 2), is_reported=False)
    assert seen.take(call(30, 3))
    assert not seen.take(call(10, 1))


def test_reported_calls_are_not_repetitions_of_each_other() -> None:
    """Two equal reports are two calls, but a span above repeats them."""
    seen = SeenCalls()
    seen.add(call(10, 1), is_reported=True)
    assert not seen.take(call(10, 1))
    assert seen.has_model_of(call(10, 1))
