"""The default policies keep the limits that callers accept."""

import pytest

from forge_otel.resilience.policies import SERVICE_DEFAULTS, defaults_for


@pytest.mark.parametrize(("name", "total_s"), [("redis", 0.05), ("qdrant", 0.5), ("figma", 90)])
def test_the_defaults_limit_a_call(name: str, total_s: float) -> None:
    """Total deadline in seconds."""
    assert defaults_for(name).deadline.total_s == total_s
    assert defaults_for(name) is SERVICE_DEFAULTS[name]


def test_an_attempt_fits_into_the_deadline_of_every_service() -> None:
    """Also for unknown names and for parts of known services."""
    for name in (*SERVICE_DEFAULTS, "unheard-of"):
        policies = defaults_for(name)
        assert policies.timeout.attempt_s is not None
        assert policies.timeout.attempt_s <= policies.deadline.total_s
        assert policies.breaker.threshold == 5
    assert defaults_for("openai:chat") is SERVICE_DEFAULTS["openai"]


@pytest.mark.parametrize(("name", "open_s"), [("redis", 2), ("redis:flights", 2), ("qdrant", 2), ("openai", 60)])
def test_the_breaker_of_a_cache_is_open_for_seconds(name: str, open_s: float) -> None:
    """A probe of it costs milliseconds, and a call without it a generation."""
    assert defaults_for(name).breaker.open_s == open_s
