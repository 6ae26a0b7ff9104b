"""Guarded streams: the first chunk decides about the attempt, later errors count, and all resources are released."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from forge_otel.errors import CircuitOpen, ServiceTimeout
from forge_otel.resilience.attempt_timeout import TimeoutOptions
from forge_otel.resilience.breaker import BreakerOptions
from forge_otel.resilience.bulkhead import BulkheadOptions
from forge_otel.resilience.deadline import DeadlineOptions
from forge_otel.resilience.fallback import Fallback
from forge_otel.resilience.guard import Guard
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import RetryBudget
from forge_otel.testing.clock import ManualClock

TIMEOUTS = [TimeoutOptions(), TimeoutOptions(attempt_s=5.0)]
marker: ContextVar[str] = ContextVar("marker", default="unset")


def guarded(clock: ManualClock | None = None, *, fallbacks: Any = (), **parts: Any) -> Guard:
    """Return a guard whose pauses take no time."""
    budget = RetryBudget(reserve=1e6, capacity=1e6)
    return Guard("svc", Policies(**parts), clock=clock or ManualClock(), fallbacks=fallbacks, budget=budget)


async def read(chunks: AsyncIterator[Any], seen: list[Any]) -> None:
    """Append every chunk to `seen`."""
    async for chunk in chunks:
        seen.append(chunk)  # noqa: PERF401 - a comprehension would lose the chunks before an error


class Model:
    """Streams three chunks; fails with the early errors before the first, or with the late one after the second."""

    def __init__(self, *early: Exception, late: Exception | None = None) -> None:
        self.early, self.late = list(early), late
        self.calls = self.closed = 0

    async def stream(self) -> AsyncIterator[str]:
        """The chunks."""
        self.calls += 1
        try:
            if self.early:
                raise self.early.pop(0)
            yield "a"
            yield "b"
            if self.late is not None:
                raise self.late
            yield "c"
        finally:
            self.closed += 1


@pytest.mark.parametrize("timeout", TIMEOUTS)
async def test_a_stream_is_retried_until_its_first_chunk(timeout: TimeoutOptions) -> None:
    """The reader sees one complete stream."""
    model, guard = Model(ConnectionError(), TimeoutError()), guarded(timeout=timeout)
    assert [chunk async for chunk in guard.stream(model.stream)] == ["a", "b", "c"]
    state = guard.admission.state()
    assert (model.calls, state.failures, state.successes, state.in_flight) == (3, 2, 1, 0)


@pytest.mark.parametrize("timeout", TIMEOUTS)
async def test_a_stream_that_breaks_after_its_first_chunk_is_not_retried(timeout: TimeoutOptions) -> None:
    """The break is counted as a failure of its own."""
    model, guard = Model(late=ConnectionError()), guarded(timeout=timeout)
    seen: list[str] = []
    with pytest.raises(ConnectionError):
        await read(guard.stream(model.stream), seen)
    state = guard.admission.state()
    assert (seen, model.calls) == (["a", "b"], 1)
    assert (state.successes, state.failures, state.in_flight) == (1, 1, 0)


@pytest.mark.parametrize("timeout", TIMEOUTS)
async def test_a_reader_that_stops_early_closes_the_stream(timeout: TimeoutOptions) -> None:
    """It is not a failure, and the slot is released."""
    model, guard = Model(), guarded(timeout=timeout)
    async with aclosing(guard.stream(model.stream)) as chunks:
        assert await anext(chunks) == "a"
        assert guard.admission.state().in_flight == 1
    state = guard.admission.state()
    assert (model.closed, state.failures, state.in_flight) == (1, 0, 0)


async def test_breaks_after_the_first_chunk_open_the_circuit() -> None:
    """Half of the samples are failures, although every stream starts."""
    model = Model(late=ConnectionError())
    guard = guarded(breaker=BreakerOptions(min_calls=10))
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await read(guard.stream(model.stream), [])
    with pytest.raises(CircuitOpen):
        await read(guard.stream(model.stream), [])


async def test_a_silent_stream_times_out_at_any_chunk() -> None:
    """The attempt timeout applies to each chunk."""

    async def silent(*chunks: str) -> AsyncIterator[str]:
        for chunk in chunks:
            yield chunk
        await asyncio.sleep(60)

    for before in ([], ["a"]):
        guard, seen = guarded(timeout=TimeoutOptions(attempt_s=0.01)), list[str]()
        with pytest.raises(ServiceTimeout):
            await read(guard.stream(silent, *before), seen)
        assert (seen, guard.admission.state().in_flight) == (before, 0)


async def test_the_deadline_limits_the_whole_stream() -> None:
    """Further chunks do not extend it."""
    clock = ManualClock()

    async def endless() -> AsyncIterator[int]:
        for number in range(1000):
            clock.advance(1.0)
            yield number

    guard, seen = guarded(clock, deadline=DeadlineOptions(total_s=5.0)), list[int]()
    with pytest.raises(ServiceTimeout, match="no time is left"):
        await read(guard.stream(endless), seen)
    assert len(seen) == 5


async def test_a_stream_holds_its_slot_until_it_ends() -> None:
    """The bulkhead limits running streams, not their starts."""
    guard = guarded(bulkhead=BulkheadOptions(max_concurrent=1))
    first = guard.stream(Model().stream)
    await anext(first)
    second = asyncio.ensure_future(anext(guard.stream(Model().stream)))
    await asyncio.sleep(0.01)
    assert (second.done(), guard.admission.state().waiting) == (False, 1)
    await first.aclose()
    assert await second == "a"


async def test_a_coroutine_may_return_the_stream() -> None:
    """As `await client.create(stream=True)`, whose stream is closed by `close`."""

    class Answer:
        def __init__(self) -> None:
            self.chunks, self.is_closed = iter("xy"), False

        def __aiter__(self) -> "Answer":
            return self

        async def __anext__(self) -> str:
            try:
                return next(self.chunks)
            except StopIteration:
                raise StopAsyncIteration from None

        async def close(self) -> None:
            self.is_closed = True

    answer = Answer()

    async def create() -> Answer:
        return answer

    assert [chunk async for chunk in guarded().stream(create)] == ["x", "y"]
    assert answer.is_closed


async def test_an_empty_stream_is_a_success() -> None:
    """It ends without an error."""

    async def nothing() -> AsyncIterator[str]:
        for chunk in ():
            yield chunk

    guard = guarded()
    assert [chunk async for chunk in guard.stream(nothing)] == []
    assert (guard.admission.state().successes, guard.admission.state().in_flight) == (1, 0)


@pytest.mark.parametrize("timeout", TIMEOUTS)
async def test_a_generator_keeps_its_context_variables_between_chunks(timeout: TimeoutOptions) -> None:
    """A span opened by a generator must be closed in the same context."""

    async def traced() -> AsyncIterator[str]:
        token = marker.set("inside")
        yield marker.get()
        yield marker.get()
        marker.reset(token)
        yield marker.get()

    assert [chunk async for chunk in guarded(timeout=timeout).stream(traced)] == ["inside", "inside", "unset"]


async def test_a_fallback_may_return_a_stream() -> None:
    """It gets the arguments of the call."""

    async def other(exc: Exception, word: str) -> AsyncIterator[str]:
        async def chunks() -> AsyncIterator[str]:
            for letter in word:
                yield letter

        return chunks()

    def down(word: str) -> AsyncIterator[str]:
        raise ConnectionError(word)

    guard = guarded(fallbacks=[Fallback("other", other)])
    assert [chunk async for chunk in guard.stream(down, "hi")] == ["h", "i"]


async def test_a_decorated_async_generator_stays_one() -> None:
    """purgatory breaks it when it is called."""
    model = Model(ConnectionError())

    @guarded()
    async def tokens(prompt: str) -> AsyncIterator[str]:
        async for chunk in model.stream():
            yield prompt + chunk

    assert inspect.isasyncgenfunction(tokens)
    assert [chunk async for chunk in tokens("-")] == ["-a", "-b", "-c"]


@pytest.mark.parametrize("timeout", TIMEOUTS)
async def test_a_cancelled_reader_is_neutral(timeout: TimeoutOptions) -> None:
    """The stream is closed and its slot released."""
    is_waiting, is_closed = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        try:
            yield "a"
            is_waiting.set()
            await asyncio.sleep(60)
        finally:
            is_closed.set()

    guard = guarded(timeout=timeout)

    async def read() -> None:
        async with aclosing(guard.stream(slow)) as chunks:
            async for _ in chunks:
                pass

    task = asyncio.create_task(read())
    await is_waiting.wait()
    task.cancel()
    await asyncio.wait([task], timeout=1.0)
    async with asyncio.timeout(1.0):
        await is_closed.wait()
    state = guard.admission.state()
    assert task.cancelled()
    assert (state.failures, state.in_flight) == (0, 0)
