"""Fallbacks answer in place of a failed service."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from forge_otel.context import Generation, current_generation
from forge_otel.errors import BadRequest, CircuitOpen, ServiceUnavailable
from forge_otel.resilience.events import GuardEvent, GuardListeners
from forge_otel.resilience.fallback import Fallback, unavailable
from forge_otel.resilience.guard import Guard
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import RetryOptions

ONCE = Policies(retry=RetryOptions(attempts=1))


async def down(key: str, *, version: int = 1) -> str:
    """A service that fails."""
    raise ConnectionError(f"{key} {version}")


def cached(exc: Exception, key: str, *, version: int = 1) -> str:
    """A fallback with a cached answer."""
    return f"cached {key} {version}, because of {type(exc).__name__}"


async def test_a_fallback_gets_the_error_and_the_arguments() -> None:
    """The label is recorded on the generation and emitted to the listeners."""
    events: list[GuardEvent] = []
    generation = Generation(id="1", started_at=datetime.now(UTC), started_s=0.0)
    guard = Guard(
        "figma", ONCE, fallbacks=[Fallback("figma:cached", cached)], listeners=GuardListeners([events.append])
    )
    token = current_generation.set(generation)
    try:
        assert await guard.call(down, "k", version=2) == "cached k 2, because of ConnectionError"
    finally:
        current_generation.reset(token)
    assert generation.degraded == ["figma:cached"]
    assert (events[-1].kind, events[-1].detail) == ("fallback_used", "figma:cached")


async def test_a_failed_fallback_passes_to_the_next_one() -> None:
    """Sync or async."""

    async def other_model(exc: Exception, key: str) -> str:
        return f"other model for {key}"

    def broken(exc: Exception, key: str) -> str:
        raise KeyError(key)

    guard = Guard("openai", ONCE, fallbacks=[Fallback("a", broken), Fallback("b", other_model)])
    assert await guard(down)("k") == "other model for k"


async def test_unavailable_raises_a_clear_503() -> None:
    """It carries `Retry-After`; the error of the client is its cause."""
    guard = Guard("openai", ONCE, fallbacks=[unavailable("openai", retry_after_s=20.0)])
    with pytest.raises(ServiceUnavailable, match="'openai' is not available; try again in 20 s") as caught:
        await guard.call(down, "k")
    assert caught.value.retry_after_s == 20.0
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_a_rejection_by_the_breaker_falls_back_too() -> None:
    """`Retry-After` is the open time of the breaker."""
    guard = Guard("openai", ONCE, fallbacks=[unavailable("openai")])
    guard.admission.set_mode("forced_open")
    with pytest.raises(ServiceUnavailable) as caught:
        await guard.call(down, "k")
    assert isinstance(caught.value.__cause__, CircuitOpen)
    assert caught.value.retry_after_s == 60.0


@pytest.mark.parametrize("exc", [BadRequest("no such file"), asyncio.CancelledError()])
async def test_errors_of_the_caller_do_not_fall_back(exc: BaseException) -> None:
    """Neither do cancellations."""

    async def wrong() -> None:
        raise exc

    def never(*_: Any) -> None:
        raise AssertionError

    with pytest.raises(type(exc)):
        await Guard("figma", ONCE, fallbacks=[Fallback("x", never)]).call(wrong)


async def test_a_cancellation_passes_through_a_running_fallback() -> None:
    """The next fallback is not called."""
    is_running = asyncio.Event()

    async def slow(exc: Exception, key: str) -> None:
        is_running.set()
        await asyncio.sleep(60)

    guard = Guard("figma", ONCE, fallbacks=[Fallback("slow", slow), unavailable("figma")])
    task = asyncio.create_task(guard.call(down, "k"))
    await is_running.wait()
    task.cancel()
    await asyncio.wait([task], timeout=1.0)
    assert task.cancelled()


async def test_guards_of_one_service_may_have_different_fallbacks() -> None:
    """They share the breaker."""
    plain = Guard("figma", ONCE)
    soft = plain.using(fallbacks=[Fallback("figma:cached", cached)])
    for _ in range(5):
        assert (await soft.call(down, "k")).startswith("cached")
    with pytest.raises(CircuitOpen):
        await plain.call(down, "k")
