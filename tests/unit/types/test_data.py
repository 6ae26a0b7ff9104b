"""Requests are validated when they are created."""

import asyncio
from typing import Any

import pytest

from forge_otel.errors import BadRequest, GenerationTimeout
from forge_otel.types import GenerationRequest, Usage, outcome_of


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"component_type": "", "figma_key": "f"}, "component_type is missing"),
        ({"component_type": "button"}, "figma_key or screenshot_hash is missing"),
        ({"component_type": "button", "figma_key": "f", "component_id": "../etc"}, "component_id may hold"),
        ({"component_type": "button", "figma_key": "f", "component_id": ".."}, "component_id may hold"),
        ({"component_type": "button", "figma_key": "f", "component_id": "a\n"}, "component_id may hold"),
        ({"component_type": "button", "figma_key": "f", "component_id": ""}, "component_id may hold"),
        ({"component_type": "button", "figma_key": "f" * 257}, "figma_key must be a string"),
        ({"component_type": "button", "figma_key": "f", "tenant": 7}, "tenant must be a string"),
    ],
)
def test_a_bad_request_says_what_is_wrong(fields: dict[str, Any], sentence: str) -> None:
    """The error names the field."""
    with pytest.raises(BadRequest, match=sentence):
        GenerationRequest(**fields)


def test_usage_is_a_partition() -> None:
    """The totals are the sums of the parts."""
    usage = Usage(input_uncached=1, cache_read=2, cache_write=4, output=8, reasoning=16)
    assert (usage.input_tokens, usage.output_tokens) == (7, 24)


@pytest.mark.parametrize(
    ("exc", "outcome"),
    [
        (asyncio.CancelledError(), "cancelled"),
        (GenerationTimeout("late"), "timeout"),
        (TimeoutError(), "timeout"),
        (ValueError(), "error"),
    ],
)
def test_an_exception_has_one_outcome(exc: BaseException, outcome: str) -> None:
    """Cancellations and timeouts are distinguished from errors."""
    assert outcome_of(exc) == outcome
