"""Promises of the fault matrix: every violation is named, and nothing else; and the page that shows them."""

from dataclasses import replace
from typing import Any

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.testing.fault_matrix.exercise import ExerciseResult, OperatorView, SinkTotals
from forge_otel.testing.fault_matrix.load import RequestResult
from forge_otel.testing.fault_matrix.matrix import Cell, render, timing_violations, violations

REFUSING = Cell(
    dependency="model",
    fault="silent",
    expected="new components get a 503",
    outcome="refused",
    refused_within_s=1.0,
    warnings=("model:breaker",),
    degraded=("model:none",),
)


def known(count: int = 100, *, latency_s: float = 0.02, status: int = 200, **fields: Any) -> tuple[RequestResult, ...]:
    """Return equal results of the load `known`, which does not require the model."""
    result = RequestResult(due_s=0.0, latency_s=latency_s, status=status, load="known", **fields)
    return (result,) * count


def refusals(**changes: Any) -> tuple[RequestResult, ...]:
    """Return clear refusals of the load `new`, which requires the model."""
    refused = RequestResult(
        due_s=0.0,
        latency_s=0.9,
        status=503,
        code="circuit_open",
        retry_after_s=1.0,
        load="new",
        requires=frozenset({"model"}),
    )
    return (replace(refused, **changes),) * 3


KEPT = ExerciseResult(
    healthy=known() + refusals(status=200, latency_s=0.02),
    failing=known() + refusals(),
    recovering=known(),
    recovered=known(),
    recovery_s=1.0,
    during=(OperatorView(warnings=frozenset({"model:breaker"})),),
    degraded=frozenset({"model:none"}),
)


def test_a_kept_promise_has_no_violations() -> None:
    """Known components are answered, new ones refused in time, and the operator is warned."""
    assert violations(REFUSING, KEPT) == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"failing": known(98) + known(2, status=500) + refusals()}, "2 of 200 requests failed: 2 x 500"),
        ({"failing": known()}, "no request was refused"),
        ({"failing": known() + refusals(retry_after_s=None)}, "3 of 3 refusals are not a clear 503"),
        ({"failing": known() + refusals(status=500)}, "3 of 3 refusals are not a clear 503"),
        ({"failing": known() + refusals(latency_s=1.2)}, "a refusal took 1.200 s"),
        ({"failing": known(latency_s=0.04) + refusals()}, "added 0.020 s to the 99th percentile of known"),
        ({"recovered": known(98) + known(2, status=503)}, "after the recovery 2 of 100 requests failed"),
        ({"recovered": ()}, "after the recovery 0 of 0 requests"),
        ({"recovery_s": None}, "did not recover within 10.0 s"),
        ({"recovery_s": 11.0}, "recovered after 11.0 s"),
        ({"during": ()}, "the warning model:breaker was not shown"),
        ({"after": OperatorView(warnings=frozenset({"model:breaker"}))}, "the warning model:breaker is still shown"),
        ({"degraded": frozenset()}, "no record has the label model:none"),
        (
            {"after": OperatorView(sinks={"database": SinkTotals(produced=3, delivered=1, waiting=1)})},
            "the counts of sink database do not add up",
        ),
    ],
)
def test_a_violation_is_named(changes: dict[str, Any], sentence: str) -> None:
    """Exactly one sentence describes it."""
    (found,) = violations(REFUSING, replace(KEPT, **changes))
    assert sentence in found


def test_only_time_limits_are_timing_violations() -> None:
    """A measurement that violates nothing else can be repeated."""
    slow = replace(KEPT, failing=known(latency_s=0.04) + refusals())
    assert timing_violations(REFUSING, slow) == violations(REFUSING, slow) != ()
    assert timing_violations(REFUSING, replace(KEPT, recovered=())) == ()


def test_the_noise_of_the_machine_is_allowed() -> None:
    """The difference between 99th percentile and median without the fault may be added."""
    noisy = known(95) + known(5, latency_s=0.2)
    cell = Cell(dependency="cache", fault="slow", expected="no effect")
    result = replace(KEPT, healthy=noisy, failing=known(95) + known(5, latency_s=0.35))
    assert violations(cell, result) == ()
    assert violations(cell, replace(result, failing=known(latency_s=0.45))) != ()


def test_the_closed_port_of_a_restarting_service_is_allowed() -> None:
    """Requests that were in flight count as failed, and so does a port that stays closed."""
    closed, broken = (known(60, status=0, code=code) for code in ("ConnectError", "ReadError"))
    cell = Cell(dependency="disk", fault="restart", expected="no effect", restarts_service=True)
    result = replace(KEPT, failing=known() + closed)
    assert violations(cell, result) == ()
    assert violations(replace(cell, restarts_service=False), result) != ()
    assert violations(cell, replace(KEPT, failing=known() + broken)) != ()
    assert violations(cell, replace(KEPT, recovered=known() + closed)) != ()


def test_a_refusal_needs_a_time_limit() -> None:
    """A cell with the outcome `refused` and no `refused_within_s` is rejected."""
    with pytest.raises(ConfigurationError, match="refused_within_s"):
        Cell(dependency="model", fault="silent", expected="a 503", outcome="refused")


def test_the_page_shows_every_cell() -> None:
    """Cells that pass, fail, were not run and do not apply are distinguished, the last with their reason."""
    cells = [
        Cell(dependency="cache", fault="silent", expected="no effect", warnings=("cache:breaker",)),
        Cell(dependency="cache", fault="full", expected="no effect"),
        Cell(dependency="model", fault="silent", expected="no effect"),
        Cell(dependency="model", fault="full", expected="A model has no disk.", outcome="n/a"),
    ]
    page = render(cells, {"cache-silent": (), "cache-full": ("late",)})
    assert "| **cache** | answered: passes | answered: fails |" in page
    assert "| **model** | answered: not run | n/a |" in page
    assert "- full: not applicable. A model has no disk." in page
    assert "`cache:breaker`" in page
