"""What an error means, how long to pause, and how much trying again is allowed."""

from types import SimpleNamespace
from typing import Any

import pytest

from forge_otel.errors import BadRequest, CircuitOpen, ConfigurationError, ServiceTimeout
from forge_otel.resilience.retry import (
    RetryBudget,
    RetryOptions,
    Verdict,
    classify,
    parse_retry_after,
    pause_s,
    verdict_of,
)


def answered(status: int, *, code: str | None = None, **headers: str) -> Exception:
    """An error as openai and httpx raise it."""
    exc = Exception(f"HTTP {status}")
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    vars(exc).update(status_code=status, code=code, response=SimpleNamespace(status_code=status, headers=shown))
    return exc


def of_class(*names: str) -> Exception:
    """An error of a class hierarchy that is known by its names only."""
    base: type = Exception
    for name in names:
        base = type(name, (base,), {})
    return base("…")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("exc", "kind", "is_transient"),
    [
        (answered(500), "failure", True),
        (answered(503), "failure", True),
        (answered(529), "failure", True),
        (answered(408), "failure", True),
        (answered(429), "throttle", True),
        (answered(429, code="insufficient_quota"), "fatal", False),
        (answered(400), "ignore", False),
        (answered(404), "ignore", False),
        (answered(401), "fatal", False),
        (answered(403), "fatal", False),
        (TimeoutError(), "failure", True),
        (ConnectionResetError(), "failure", True),
        (OSError("no route to host"), "failure", True),
        (of_class("TransportError", "ReadTimeout"), "failure", True),
        (of_class("ConnectionError", "BusyLoadingError"), "failure", True),
        (of_class("ConnectionError", "AuthenticationError"), "fatal", False),
        (of_class("ResponseHandlingException"), "failure", True),
        (ValueError("garbage"), "failure", False),
        (BadRequest("no"), "ignore", False),
        (CircuitOpen("other", retry_after_s=1), "ignore", False),
        (ServiceTimeout("late"), "failure", True),
    ],
)
def test_classify_goes_by_shape(exc: Exception, kind: str, is_transient: bool) -> None:
    """No SDK is imported for it."""
    verdict = classify(exc)
    assert (verdict.kind, verdict.is_transient) == (kind, is_transient)


def test_real_clients_errors_are_known() -> None:
    """The classes of the installed SDKs, not our idea of them."""
    httpx, redis = pytest.importorskip("httpx"), pytest.importorskip("redis")
    for exc in (httpx.ConnectTimeout("…"), httpx.ReadError("…"), redis.TimeoutError(), redis.ConnectionError()):
        assert classify(exc) == Verdict("failure", is_transient=True)
    assert classify(redis.AuthenticationError()).kind == "fatal"


def test_botocore_errors_carry_their_answer_in_a_mapping() -> None:
    """Status and headers of a ClientError."""
    exc = Exception("SlowDown")
    metadata = {"HTTPStatusCode": 503, "HTTPHeaders": {"retry-after": "2"}}
    vars(exc)["response"] = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": metadata}
    assert classify(exc) == Verdict("failure", is_transient=True, retry_after_s=2.0)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"Retry_After": "1.5"}, 1.5),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
def test_throttling_says_how_long(headers: dict[str, Any], expected: float | None) -> None:
    """Header names in any case; openai's milliseconds first."""
    assert classify(answered(429, **headers)).retry_after_s == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Wed, 21 Oct 2065 07:28:00 GMT", 3600.0),
        ("99999999", 3600.0),
        ("-5", 0.0),
        ("nan", None),
        ("inf", 3600.0),
        ("", None),
    ],
)
def test_retry_after_is_clamped(value: str, expected: float | None) -> None:
    """Seconds and HTTP dates (RFC 9110); a clock that is wrong cannot stop us for a day."""
    assert parse_retry_after(value, wall_s=lambda: 1445412480.0) == expected


def test_a_fault_of_the_users_function_does_not_hide_the_error() -> None:
    """It falls back to `classify`; a cancelled call is nobody's fault."""

    def broken(exc: Exception) -> Verdict:
        raise KeyError(exc)

    assert verdict_of(ConnectionError(), broken).is_transient
    assert verdict_of(KeyboardInterrupt(), broken).kind == "ignore"


def test_pauses_have_full_jitter_and_double() -> None:
    """Anything from nothing to the bound, which ends at `max_s`."""
    options = RetryOptions(base_s=0.5, max_s=3.0)
    assert [pause_s(options, n, None, rng=lambda: 1.0) for n in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert pause_s(options, 3, None, rng=lambda: 0.0) == 0.0
    assert pause_s(options, 10_000, None, rng=lambda: 1.0) == 3.0


def test_what_the_service_asked_for_comes_first() -> None:
    """Plus a little spread, never less."""
    assert pause_s(RetryOptions(base_s=0.5), 1, 7.0, rng=lambda: 0.0) == 7.0
    assert pause_s(RetryOptions(base_s=0.5), 1, 7.0, rng=lambda: 1.0) == 7.5


def test_the_budget_is_filled_by_successes() -> None:
    """One retry for ten successes, and a bounded burst."""
    budget = RetryBudget(reserve=0.0, refill_per_s=0.0)
    for _ in range(100):
        budget.deposit()
    assert [budget.withdraw(0.0) for _ in range(12)].count(True) in {9, 10}
    for _ in range(100_000):
        budget.deposit()
    assert budget.tokens <= 50.1


def test_a_quiet_service_may_try_again_after_a_while() -> None:
    """Time alone fills the budget to its reserve, not above."""
    budget = RetryBudget(reserve=2.0, refill_per_s=0.1)
    assert [budget.withdraw(0.0) for _ in range(3)] == [True, True, False]
    assert budget.withdraw(10.0)
    budget.withdraw(10_000.0)
    assert budget.tokens == pytest.approx(1.0)


def test_bad_options_are_refused() -> None:
    """With every fault at once."""
    with pytest.raises(ConfigurationError) as caught:
        RetryOptions(attempts=0, base_s=-1)
    assert len(caught.value.faults) == 2
