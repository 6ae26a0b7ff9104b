"""Classification of errors, pauses and the retry budget."""

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
    """Return an error as openai and httpx raise it."""
    exc = Exception(f"HTTP {status}")
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    vars(exc).update(status_code=status, code=code, response=SimpleNamespace(status_code=status, headers=shown))
    return exc


def of_class(*names: str) -> Exception:
    """Return an error whose class hierarchy has the given names."""
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
def test_classify_inspects_attributes_and_class_names(exc: Exception, kind: str, is_transient: bool) -> None:
    """It imports no SDK."""
    verdict = classify(exc)
    assert (verdict.kind, verdict.is_transient) == (kind, is_transient)


def test_errors_of_the_installed_clients_are_classified() -> None:
    """Their real classes are used."""
    httpx, redis = pytest.importorskip("httpx"), pytest.importorskip("redis")
    for exc in (httpx.ConnectTimeout("…"), httpx.ReadError("…"), redis.TimeoutError(), redis.ConnectionError()):
        assert classify(exc) == Verdict("failure", is_transient=True)
    assert classify(redis.AuthenticationError()).kind == "fatal"


def test_botocore_errors_have_a_mapping_as_response() -> None:
    """It holds the status and the headers of a ClientError."""
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
def test_the_requested_pause_is_read_from_headers(headers: dict[str, Any], expected: float | None) -> None:
    """In any case of the name; openai's milliseconds take precedence."""
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


def test_a_failing_classify_function_falls_back_to_the_default() -> None:
    """The error of the service is still classified; a cancellation is ignored."""

    def broken(exc: Exception) -> Verdict:
        raise KeyError(exc)

    assert verdict_of(ConnectionError(), broken).is_transient
    assert verdict_of(KeyboardInterrupt(), broken).kind == "ignore"


def test_pauses_have_full_jitter_and_double() -> None:
    """Between 0 and an upper bound, which doubles up to `max_s`."""
    options = RetryOptions(base_s=0.5, max_s=3.0)
    assert [pause_s(options, n, None, rng=lambda: 1.0) for n in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert pause_s(options, 3, None, rng=lambda: 0.0) == 0.0
    assert pause_s(options, 10_000, None, rng=lambda: 1.0) == 3.0


def test_a_requested_pause_takes_precedence() -> None:
    """Jitter is added and never subtracted."""
    assert pause_s(RetryOptions(base_s=0.5), 1, 7.0, rng=lambda: 0.0) == 7.0
    assert pause_s(RetryOptions(base_s=0.5), 1, 7.0, rng=lambda: 1.0) == 7.5


def test_the_budget_is_filled_by_successes() -> None:
    """One retry for ten successes, with a bounded burst."""
    budget = RetryBudget(reserve=0.0, refill_per_s=0.0)
    for _ in range(100):
        budget.deposit()
    assert [budget.withdraw(0.0) for _ in range(12)].count(True) in {9, 10}
    for _ in range(100_000):
        budget.deposit()
    assert budget.tokens <= 50.1


def test_the_budget_refills_over_time() -> None:
    """Up to its reserve only."""
    budget = RetryBudget(reserve=2.0, refill_per_s=0.1)
    assert [budget.withdraw(0.0) for _ in range(3)] == [True, True, False]
    assert budget.withdraw(10.0)
    budget.withdraw(10_000.0)
    assert budget.tokens == pytest.approx(1.0)


def test_invalid_options_are_rejected() -> None:
    """With every fault at once."""
    with pytest.raises(ConfigurationError) as caught:
        RetryOptions(attempts=0, base_s=-1)
    assert len(caught.value.faults) == 2
