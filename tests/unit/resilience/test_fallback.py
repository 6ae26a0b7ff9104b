"""What answers instead of a service that does not."""

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
    """A service that does not answer."""
    raise ConnectionError(f"{key} {version}")


def cached(exc: Exception, key: str, *, version: int = 1) -> str:
    """An answer from somewhere else."""
    return f"cached {key} {version}, because of {type(exc).__name__}"


async def test_a_fallback_gets_the_error_and_the_arguments() -> None:
    """The caller gets an answer, the generation and the listeners know where it is from."""
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


async def test_the_next_fallback_answers_where_one_fails() -> None:
    """Async or not; only the one that answered is noted."""

    async def other_model(exc: Exception, key: str) -> str:
        return f"other model for {key}"

    def broken(exc: Exception, key: str) -> str:
        raise KeyError(key)

    guard = Guard("openai", ONCE, fallbacks=[Fallback("a", broken), Fallback("b", other_model)])
    assert await guard(down)("k") == "other model for k"


async def test_where_none_answers_the_last_one_says_why() -> None:
    """A clear 503 that says when to come back, with the client's own error behind it."""
    guard = Guard("openai", ONCE, fallbacks=[unavailable("openai", retry_after_s=20.0)])
    with pytest.raises(ServiceUnavailable, match="'openai' is not available; try again in 20 s") as caught:
        await guard.call(down, "k")
    assert caught.value.retry_after_s == 20.0
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_a_refusal_of_the_breaker_is_answered_too() -> None:
    """With the breaker's own time to come back, where nothing else answers."""
    guard = Guard("openai", ONCE, fallbacks=[unavailable("openai")])
    guard.admission.set_mode("forced_open")
    with pytest.raises(ServiceUnavailable) as caught:
        await guard.call(down, "k")
    assert isinstance(caught.value.__cause__, CircuitOpen)
    assert caught.value.retry_after_s == 60.0


@pytest.mark.parametrize("exc", [BadRequest("no such file"), asyncio.CancelledError()])
async def test_the_callers_own_mistakes_are_not_covered_up(exc: BaseException) -> None:
    """Nor is a cancellation."""

    async def wrong() -> None:
        raise exc

    def never(*_: Any) -> None:
        raise AssertionError

    with pytest.raises(type(exc)):
        await Guard("figma", ONCE, fallbacks=[Fallback("x", never)]).call(wrong)


async def test_cancelled_while_a_fallback_answers() -> None:
    """The cancellation goes through to the caller."""
    is_asked = asyncio.Event()

    async def slow(exc: Exception, key: str) -> None:
        is_asked.set()
        await asyncio.sleep(60)

    guard = Guard("figma", ONCE, fallbacks=[Fallback("slow", slow), unavailable("figma")])
    task = asyncio.create_task(guard.call(down, "k"))
    await is_asked.wait()
    task.cancel()
    await asyncio.wait([task], timeout=1.0)
    assert task.cancelled()


async def test_guards_of_one_service_may_fall_back_differently() -> None:
    """And still share the breaker."""
    plain = Guard("figma", ONCE)
    soft = plain.using(fallbacks=[Fallback("figma:cached", cached)])
    for _ in range(5):
        assert (await soft.call(down, "k")).startswith("cached")
    with pytest.raises(CircuitOpen):
        await plain.call(down, "k")
