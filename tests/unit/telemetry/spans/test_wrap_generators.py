"""Tests of the span of a generator, from the first step to the last, current while its body runs."""

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode
from tests.unit.telemetry.recorder import Recorder

from forge_otel.names import Attr, Metric


def test_a_generator_keeps_send_throw_and_return(recorder: Recorder) -> None:
    """They pass between consumer and body as without a decorator."""

    @recorder.spans.tool
    def conversation() -> Any:
        heard = yield "hello"
        try:
            yield f"you said {heard}"
        except KeyError:
            yield "caught"
        return "done"

    talk = conversation()
    assert next(talk) == "hello"
    assert talk.send("hi") == "you said hi"
    assert talk.throw(KeyError("x")) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(talk)
    assert stop.value.value == "done"
    assert (recorder.span("execute_tool conversation").attributes or {})[Attr.CHUNKS] == 3


async def test_an_async_generator_keeps_asend_and_athrow(recorder: Recorder) -> None:
    """They pass between consumer and body as without a decorator."""

    @recorder.spans.tool
    async def conversation() -> Any:
        heard = yield "hello"
        try:
            yield f"you said {heard}"
        except KeyError:
            yield "caught"

    talk = conversation()
    assert await anext(talk) == "hello"
    assert await talk.asend("hi") == "you said hi"
    assert await talk.athrow(KeyError("x")) == "caught"
    with pytest.raises(StopAsyncIteration):
        await anext(talk)
    assert (recorder.span("execute_tool conversation").attributes or {})[Attr.CHUNKS] == 3


def counting(recorder: Recorder, seen: list[str]) -> Any:
    """Return a decorated generator that appends to `seen` in its `finally`."""

    @recorder.spans.agent("count")
    def count() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            seen.append("cleaned")

    return count()


@pytest.mark.parametrize("how", ["close", "garbage", "break"])
def test_an_unfinished_generator_ends_its_span(how: str, recorder: Recorder) -> None:
    """Closed, collected or left: the body cleans up, and the span ends without an error."""
    seen: list[str] = []
    numbers = counting(recorder, seen)
    next(numbers)
    if how == "close":
        numbers.close()
    elif how == "garbage":
        cycle: list[Any] = [numbers]
        cycle.append(cycle)
        del cycle
    del numbers
    gc.collect()
    span = recorder.span("invoke_agent count")
    assert seen == ["cleaned"]
    assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())
    assert recorder.points(Metric.AGENT_DURATION)["count", "agent", None].count == 1


async def test_a_closed_async_generator_ends_its_span(recorder: Recorder) -> None:
    """A disconnected client is not an error of the agent."""
    seen: list[str] = []

    @recorder.spans.agent("count")
    async def count() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned")

    numbers = count()
    await anext(numbers)
    await numbers.aclose()
    assert seen == ["cleaned"]
    assert recorder.span("invoke_agent count").status.status_code is StatusCode.UNSET


async def test_the_span_of_a_generator_is_not_current_in_the_consumer(recorder: Recorder, caplog: Any) -> None:
    """Also if another task finishes the generator."""

    @recorder.spans.agent("stream")
    async def stream() -> AsyncIterator[Span]:
        for _ in range(3):
            yield trace.get_current_span()

    with caplog.at_level(logging.ERROR), recorder.spans.span("consumer"):
        mine = trace.get_current_span()
        chunks = stream()
        inside = await anext(chunks)
        assert trace.get_current_span() is mine
        assert inside is not mine
        await asyncio.create_task(drain(chunks))
        assert trace.get_current_span() is mine
    assert "detach" not in caplog.text


async def drain(chunks: AsyncIterator[Any]) -> None:
    """Consume the rest."""
    async for _ in chunks:
        pass


def test_a_generator_can_be_finished_in_another_thread(recorder: Recorder, caplog: Any) -> None:
    """Each step attaches and detaches in its own thread."""
    seen: list[str] = []
    numbers = counting(recorder, seen)
    next(numbers)
    thread = threading.Thread(target=lambda: [next(numbers), numbers.close()])
    thread.start()
    thread.join()
    assert seen == ["cleaned"]
    assert "detach" not in caplog.text
    assert trace.get_current_span() is trace.INVALID_SPAN
