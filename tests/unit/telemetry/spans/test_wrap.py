"""Tests of spans around coroutines, functions, generators and async generators."""

import asyncio
import contextvars
import inspect
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode
from tests.unit.telemetry.recorder import Recorder

from forge_otel.names import Attr, Metric
from forge_otel.telemetry.spans.capture import MAX_CONTENT_BYTES

SHAPES = ["coroutine", "plain", "generator", "async_generator"]


def make(shape: str, recorder: Recorder, body: Callable[[], Any]) -> Callable[[], Any]:
    """Return an async function that runs a decorated function, whose body calls `body` and returns `result`."""

    @recorder.spans.agent("a")
    async def coroutine() -> str:
        await asyncio.sleep(0)
        body()
        return "result"

    @recorder.spans.agent("a")
    def plain() -> str:
        body()
        return "result"

    @recorder.spans.agent("a")
    def generator() -> Iterator[str]:
        yield "res"
        body()
        yield "ult"

    @recorder.spans.agent("a")
    async def async_generator() -> AsyncIterator[str]:
        yield "res"
        body()
        await asyncio.sleep(0)
        yield "ult"

    async def run() -> str:
        if shape == "coroutine":
            return await coroutine()
        if shape == "plain":
            return plain()
        if shape == "generator":
            return "".join(generator())
        return "".join([chunk async for chunk in async_generator()])

    return run


def fail() -> None:
    """Raise the error of a failing agent."""
    raise ValueError("the design has no layers")


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_success_is_recorded(shape: str, recorder: Recorder) -> None:
    """The result is returned, and the span has name, type and sizes."""
    assert await make(shape, recorder, lambda: None)() == "result"
    span = recorder.span("invoke_agent a")
    attributes = dict(span.attributes or {})
    assert span.status.status_code is StatusCode.UNSET
    assert attributes[Attr.GEN_AI_AGENT_NAME] == "a"
    assert attributes[Attr.GEN_AI_OPERATION] == "invoke_agent"
    assert (attributes[Attr.SPAN_KIND], attributes[Attr.INPUT_SIZE], attributes[Attr.OUTPUT_SIZE]) == ("agent", 0, 6)


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_error_is_recorded_and_raised(shape: str, recorder: Recorder) -> None:
    """The span has event, status and error type; the metric counts it."""
    with pytest.raises(ValueError, match="no layers"):
        await make(shape, recorder, fail)()
    span = recorder.span("invoke_agent a")
    assert [event.name for event in span.events] == ["exception"]
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})[Attr.ERROR_TYPE] == "ValueError"
    assert recorder.points(Metric.AGENT_DURATION)["a", "agent", "ValueError"].count == 1


@pytest.mark.parametrize("shape", ["coroutine", "async_generator"])
async def test_a_cancelled_call_is_an_error(shape: str, recorder: Recorder) -> None:
    """An unset status would look like success."""
    task = asyncio.create_task(make_blocked(shape, recorder)())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    span = recorder.span("invoke_agent blocked")
    assert (span.status.status_code, (span.attributes or {})[Attr.ERROR_TYPE]) == (StatusCode.ERROR, "CancelledError")


def make_blocked(shape: str, recorder: Recorder) -> Callable[[], Any]:
    """Return a decorated function that never returns."""

    @recorder.spans.agent("blocked")
    async def coroutine() -> None:
        await asyncio.Event().wait()

    @recorder.spans.agent("blocked")
    async def generator() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    async def consume() -> None:
        async for _ in generator():
            pass

    return coroutine if shape == "coroutine" else consume


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_span_is_current_inside_the_body_only(shape: str, recorder: Recorder) -> None:
    """Spans started in the body are children; the caller's current span is restored."""
    with recorder.spans.span("outer"):
        before = trace.get_current_span()
        await make(shape, recorder, lambda: recorder.telemetry.tracer.start_span("inner").end())()
        assert trace.get_current_span() is before
    agent, inner = recorder.span("invoke_agent a"), recorder.span("inner")
    assert inner.parent is not None
    assert inner.parent.span_id == agent.context.span_id


@pytest.mark.parametrize("shape", SHAPES)
async def test_without_telemetry_functions_run(shape: str, recorder: Recorder) -> None:
    """Decorated at import, called while no telemetry is open."""
    recorder.telemetry.shutdown()
    assert await make(shape, recorder, lambda: None)() == "result"
    assert recorder.ended == ()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decorated_function_is_of_the_same_kind(shape: str, recorder: Recorder) -> None:
    """Frameworks inspect functions."""

    async def coroutine(first: int) -> None: ...

    def plain(first: int) -> None: ...

    def generator(first: int) -> Iterator[None]:
        yield

    async def async_generator(first: int) -> AsyncIterator[None]:
        yield

    function: Any = {
        "coroutine": coroutine,
        "plain": plain,
        "generator": generator,
        "async_generator": async_generator,
    }[shape]
    decorated = recorder.spans.agent(function)
    looks = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction, inspect.signature)
    assert [look(decorated) for look in looks] == [look(function) for look in looks]
    assert decorated.__name__ == shape


async def test_methods_are_traced_without_their_receiver(capturing: Recorder) -> None:
    """Instance, class and static methods, in both orders of decorators; `self` is not an input."""
    agent = capturing.spans.agent

    class Pipeline:
        @agent
        async def instance(self, text: str) -> str:
            return text

        @classmethod
        @agent
        def of_class(cls, text: str) -> str:
            return text

        @agent
        @classmethod
        def of_class_outside(cls, text: str) -> str:
            return text

        @staticmethod
        @agent
        def static(text: str) -> str:
            return text

    made = Pipeline()
    results = [await made.instance("abc"), made.of_class("abc"), Pipeline.of_class_outside("abc"), made.static("abc")]
    assert results == ["abc"] * 4
    assert [(span.attributes or {})[Attr.INPUT] for span in capturing.ended] == ['{"text":"abc"}'] * 4
    assert {(span.attributes or {})[Attr.INPUT_SIZE] for span in capturing.ended} == {3}


def test_a_coroutine_closed_in_another_context_logs_nothing(recorder: Recorder, caplog: Any) -> None:
    """The context there is not changed either."""

    @recorder.spans.agent("blocked")
    async def wait() -> None:
        await asyncio.sleep(0)

    running = wait()
    contextvars.copy_context().run(running.send, None)
    running.close()
    assert "detach" not in caplog.text
    assert recorder.span("invoke_agent blocked").status.status_code is StatusCode.UNSET


def test_contents_are_off_by_default(recorder: Recorder) -> None:
    """Only sizes are recorded."""
    recorder.spans.agent("a")(lambda text: text)("secret")
    assert not {Attr.INPUT, Attr.OUTPUT} & set(recorder.span("invoke_agent a").attributes or {})


@pytest.mark.parametrize("decorated", [True, False])
def test_contents_are_captured_on_request(decorated: bool, recorder: Recorder, capturing: Recorder) -> None:
    """By the settings or by the decorator: named arguments and the result, redacted."""
    used = recorder if decorated else capturing
    capture = True if decorated else None

    @used.spans.tool("fetch", capture=capture)
    def fetch(key: str, *more: int, token: str) -> dict[str, str]:
        return {"body": "ok", "password": "hunter2"}

    fetch("k", 1, 2, token="hunter2")
    attributes = used.span("execute_tool fetch").attributes or {}
    assert json.loads(str(attributes[Attr.INPUT])) == {"key": "k", "*": [1, 2], "token": "[redacted]"}
    assert json.loads(str(attributes[Attr.OUTPUT])) == {"body": "ok", "password": "[redacted]"}


def test_the_capture_of_a_stream_is_limited(capturing: Recorder) -> None:
    """Every chunk is counted, the contents of the first ones are kept."""

    @capturing.spans.agent("stream")
    def stream() -> Iterator[str]:
        for _ in range(1000):
            yield "x" * 1000

    for _ in stream():
        pass
    attributes = capturing.span("invoke_agent stream").attributes or {}
    assert (attributes[Attr.OUTPUT_SIZE], attributes[Attr.CHUNKS]) == (1_000_000, 1000)
    assert len(str(attributes[Attr.OUTPUT])) <= MAX_CONTENT_BYTES
    assert 0 <= float(str(attributes[Attr.FIRST_CHUNK_S])) < 1


def test_threads_have_separate_spans(recorder: Recorder) -> None:
    """Each inner span is a child of the outer one of its thread."""

    @recorder.spans.tool
    def inner(number: int) -> int:
        return number

    @recorder.spans.agent
    def outer(number: int) -> int:
        return inner(number)

    threads = [threading.Thread(target=lambda: [outer(number) for number in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    traces = {span.context.trace_id for span in recorder.ended}
    assert (len(recorder.ended), len(traces)) == (800, 400)


def test_an_error_in_telemetry_does_not_reach_the_caller(recorder: Recorder, caplog: Any) -> None:
    """It is logged."""
    recorder.telemetry.model_calls.on_end = lambda span: 1 / 0  # type: ignore[method-assign]
    assert recorder.spans.agent("a")(lambda: "result")() == "result"
    assert "ZeroDivisionError" in caplog.text
