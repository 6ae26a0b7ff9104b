"""Tests of consistent probability sampling."""

import pytest
from opentelemetry.trace import TraceState
from tests.unit.telemetry.sampling.remote import NEVER_KEPT

from forge_otel.telemetry.sampling.probability import is_kept_upstream, randomness, threshold, with_threshold


@pytest.mark.parametrize(("rate", "member"), [(1, "th:0"), (0.5, "th:8"), (0.25, "th:c")])
def test_a_rate_becomes_a_threshold(rate: float, member: str) -> None:
    """The examples of the specification."""
    assert with_threshold(None, threshold(rate))["ot"] == member


def test_randomness_of_the_caller_replaces_the_trace_id() -> None:
    """`rv` of the tracestate decides, without it the lowest 56 bits of the trace id."""
    state = TraceState([("ot", "th:c;rv:d0000000000000")])
    assert (randomness(NEVER_KEPT, state), randomness(NEVER_KEPT, None)) == (0xD0000000000000, 0)
    assert is_kept_upstream(NEVER_KEPT, state)
    assert not is_kept_upstream(NEVER_KEPT, TraceState([("ot", "th:c")]))


def test_other_members_of_the_tracestate_are_kept() -> None:
    """Only `th` changes; the member is removed with its last value."""
    state = TraceState([("vendor", "x"), ("ot", "th:f;p:1")])
    assert with_threshold(state, None)["ot"] == "p:1"
    assert dict(with_threshold(TraceState([("vendor", "x"), ("ot", "th:f")]), None)) == {"vendor": "x"}


def test_a_full_tracestate_is_not_extended() -> None:
    """The W3C allows 32 members."""
    full = TraceState([(f"v{number}", "x") for number in range(32)])
    assert with_threshold(full, 1) is full
