"""Wrappers that record a span around functions, coroutines, generators and async generators.

A wrapper is of the same type as its function. The span of a generator lasts from the first step to the last but is
current only while the body runs.
"""

import functools
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, Final, ParamSpec, TypeVar, cast

from forge_otel.names import Attr
from forge_otel.telemetry.spans.capture import MAX_CONTENT_BYTES, estimate_size, to_json
from forge_otel.telemetry.spans.span_handle import NO_OP_SPAN, NoOpSpan, SpanHandle, SpanPlan, SpanRecorder, Value

__all__ = ["FindRecorder", "TracedFunction"]

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")
S = TypeVar("S")
FindRecorder = Callable[[], SpanRecorder | None]
"""Returns the recorder of the open telemetry, or None."""

_RECEIVERS: Final = frozenset({"self", "cls", "mcs"})


class TracedFunction:
    """A decorated function, and the start of its spans.

    Args:
        function: the function.
        plan: of its spans.
        capture: whether inputs and outputs are recorded; None applies the settings.
        find_recorder: called at each call.
    """

    def __init__(
        self, function: Callable[..., Any], plan: SpanPlan, *, capture: bool | None, find_recorder: FindRecorder
    ) -> None:
        self._plan = plan
        self._capture = capture
        self._find_recorder = find_recorder
        self._names = _parameters(function)
        self._skipped = 1 if _has_receiver(function) else 0

    def start(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> SpanHandle | NoOpSpan:
        """Start a span for a call; return `NO_OP_SPAN` without open telemetry, or after an error."""
        recorder = self._find_recorder()
        if recorder is None:
            return NO_OP_SPAN
        try:
            captures = recorder.captures_content if self._capture is None else self._capture
            attributes: dict[str, Value] = {**self._plan.attributes, Attr.INPUT_SIZE: self._input_size(args, kwargs)}
            if captures:
                attributes[Attr.INPUT] = to_json(self._named(args, kwargs))
            return SpanHandle(recorder, self._plan, attributes, captures=captures)
        except Exception:
            # Capturing runs code of the arguments, which may raise; the decorated call goes on without a span.
            _logger.exception("span of %s could not be started", self._plan.name)
            return NO_OP_SPAN

    def _input_size(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        size = 0
        for value in args[self._skipped :]:
            size += estimate_size(value)
        for value in kwargs.values():
            size += estimate_size(value)
        return size

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        named = dict(zip(self._names, args, strict=False))
        if len(args) > len(self._names):
            named["*"] = args[len(self._names) :]
        for name in self._names[: self._skipped]:
            named.pop(name, None)
        return {**named, **kwargs}


def _finish(span: SpanHandle, result: object) -> None:
    if span.is_recording:
        span.set(Attr.OUTPUT_SIZE, estimate_size(result))
        if span.captures:
            span.set(Attr.OUTPUT, to_json(result))
    span.finish()


class ChunkTotals:
    """Number, size and the first contents of the chunks that a generator yields."""

    __slots__ = ("_chunks", "_first_s", "_keeps", "_kept", "_kept_bytes", "_size", "_started_s")

    def __init__(self, *, keep: bool) -> None:
        self._keeps = keep
        self._kept: list[Any] = []
        self._kept_bytes = 0
        self._size = self._chunks = 0
        self._first_s: float | None = None
        self._started_s = time.monotonic()

    def add(self, chunk: object) -> None:
        """Count a chunk."""
        if self._first_s is None:
            self._first_s = time.monotonic() - self._started_s
        self._chunks += 1
        size = estimate_size(chunk)
        self._size += size
        if self._keeps and self._kept_bytes <= MAX_CONTENT_BYTES:
            self._kept.append(chunk)
            # An empty chunk still takes an entry of the list.
            self._kept_bytes += max(size, 16)

    def attributes(self) -> dict[str, Value]:
        """Return the span attributes about the chunks."""
        attributes: dict[str, Value] = {Attr.OUTPUT_SIZE: self._size, Attr.CHUNKS: self._chunks}
        if self._first_s is not None:
            attributes[Attr.FIRST_CHUNK_S] = self._first_s
        if self._keeps:
            texts = all(isinstance(chunk, str) for chunk in self._kept)
            attributes[Attr.OUTPUT] = to_json("".join(self._kept) if texts else self._kept)
        return attributes


def wrap_coroutine(function: Callable[P, Awaitable[R]], wrapped: TracedFunction) -> Callable[P, Awaitable[R]]:
    """Return `function` with a span around each call."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        span = wrapped.start(args, kwargs)
        if isinstance(span, NoOpSpan):
            return await function(*args, **kwargs)
        token = span.enter()
        try:
            result = await function(*args, **kwargs)
        except BaseException as exc:
            span.finish(exc)
            raise
        else:
            _finish(span, result)
            return result
        finally:
            span.leave(token)

    return call


def wrap_plain(function: Callable[P, R], wrapped: TracedFunction) -> Callable[P, R]:
    """Return `function` with a span around each call."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        span = wrapped.start(args, kwargs)
        if isinstance(span, NoOpSpan):
            return function(*args, **kwargs)
        token = span.enter()
        try:
            result = function(*args, **kwargs)
        except BaseException as exc:
            span.finish(exc)
            raise
        else:
            _finish(span, result)
            return result
        finally:
            span.leave(token)

    return call


def wrap_generator(
    function: Callable[P, Generator[Y, S, R]], wrapped: TracedFunction
) -> Callable[P, Generator[Y, S, R]]:
    """Return `function` with a span around each iteration."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, S, R]:
        body = function(*args, **kwargs)
        span = wrapped.start(args, kwargs)
        if isinstance(span, NoOpSpan):
            return (yield from body)
        stream = ChunkTotals(keep=span.captures)
        try:
            result = yield from _advance(body, span, stream)
        except BaseException as exc:
            span.finish(exc, stream.attributes())
            raise
        span.finish(None, stream.attributes())
        return result

    return call


def _advance(body: Generator[Y, S, R], span: SpanHandle, stream: ChunkTotals) -> Generator[Y, S, R]:
    """Run `body` like `yield from` (PEP 380), with the span current inside each step only."""
    # Kept across a `yield`, the span would be current in the consumer, and be detached in a context that never attached
    # it.
    step: Callable[[Any], Y] = body.send
    argument: Any = None
    while True:
        token = span.enter()
        try:
            chunk = step(argument)
        except StopIteration as stop:
            return cast("R", stop.value)
        finally:
            span.leave(token)
        stream.add(chunk)
        try:
            step, argument = body.send, (yield chunk)
        except GeneratorExit:
            _close(body, span)
            raise
        except BaseException as exc:
            step, argument = body.throw, exc


def _close(body: Generator[Any, Any, Any], span: SpanHandle) -> None:
    token = span.enter()
    try:
        body.close()
    finally:
        span.leave(token)


def wrap_async_generator(
    function: Callable[P, AsyncGenerator[Y, S]], wrapped: TracedFunction
) -> Callable[P, AsyncGenerator[Y, S]]:
    """Return `function` with a span around each iteration."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Y, S]:
        body = function(*args, **kwargs)
        span = wrapped.start(args, kwargs)
        stream = ChunkTotals(keep=span.captures)
        step: Callable[[Any], Awaitable[Y]] = body.asend
        argument: Any = None
        try:
            while True:
                chunk = await _inside(span, step(argument))
                stream.add(chunk)
                step, argument = body.asend, None
                try:
                    argument = yield chunk
                except GeneratorExit:
                    await _inside(span, body.aclose())
                    raise
                except BaseException as exc:
                    step, argument = body.athrow, exc
        except StopAsyncIteration:
            span.finish(None, stream.attributes())
        except BaseException as exc:
            span.finish(exc, stream.attributes())
            raise

    return call


async def _inside(span: SpanHandle | NoOpSpan, step: Awaitable[R]) -> R:
    token = span.enter()
    try:
        return await step
    finally:
        span.leave(token)  # type: ignore[arg-type]  # each accepts the token that it returned


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(item.name for item in parameters if item.kind in positional)


def _has_receiver(function: Callable[..., Any]) -> bool:
    """Return whether the first parameter is the object or class that a method is called on."""
    owner = getattr(function, "__qualname__", "").rpartition(".")[0]
    names = _parameters(function)
    return bool(owner) and not owner.endswith("<locals>") and bool(names) and names[0] in _RECEIVERS
