"""A span around a function, of whatever shape: coroutine, plain, generator, async generator.

The wrapper has the shape of what it wraps, so that frameworks that look (FastAPI at dependencies with `yield`) see
what they saw. A generator's span lives from the first step to the last and is current only while the body runs: held
across a `yield` it would be current in the consumer, and would be detached in a context that never attached it.
"""

import functools
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, Final, ParamSpec, TypeVar, cast

from forge_otel.names import Attr
from forge_otel.telemetry.spans.capture import MAX_CONTENT_BYTES, estimate_size, to_json
from forge_otel.telemetry.spans.span_handle import NO_OP_SPAN, NoOpSpan, SpanHandle, SpanPlan, Telemetered, Value

__all__ = ["FindTelemetry", "TracedFunction"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")
S = TypeVar("S")
FindTelemetry = Callable[[], Telemetered | None]
"""Returns what records at the time of the call, None where nothing does."""

_RECEIVERS: Final = frozenset({"self", "cls", "mcs"})


class TracedFunction:
    """Knows of one decorated function what its spans need.

    Args:
        function: what is decorated.
        plan: of its spans.
        capture: whether contents are recorded; None leaves it to the settings.
        resolve: asked at each call.
    """

    def __init__(
        self, function: Callable[..., Any], plan: SpanPlan, *, capture: bool | None, resolve: FindTelemetry
    ) -> None:
        self._plan = plan
        self._capture = capture
        self._resolve = resolve
        self._names = _parameters(function)
        self._skipped = 1 if _has_receiver(function) else 0

    def start(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> SpanHandle | NoOpSpan:
        """Start a span for a call, or return `NO_OP_SPAN`; never raises, the call matters more."""
        telemetry = self._resolve()
        if telemetry is None:
            return NO_OP_SPAN
        try:
            captures = telemetry.settings.capture_content if self._capture is None else self._capture
            attributes: dict[str, Value] = {**self._plan.attributes, Attr.INPUT_SIZE: self._input_size(args, kwargs)}
            if captures:
                attributes[Attr.INPUT] = to_json(self._named(args, kwargs))
            return SpanHandle(telemetry, self._plan, attributes, captures=captures)
        except Exception:
            logger.exception("A span of %s could not be started", self._plan.name)
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


def _finish(run: SpanHandle, result: object) -> None:
    if run.is_recording:
        run.set(Attr.OUTPUT_SIZE, estimate_size(result))
        if run.captures:
            run.set(Attr.OUTPUT, to_json(result))
    run.finish()


class ChunkTotals:
    """Adds up what a generator yields, within bounds whatever it yields."""

    __slots__ = ("_chunks", "_first_s", "_keep", "_kept", "_kept_bytes", "_size", "_started_s")

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
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
        if self._keep and self._kept_bytes <= MAX_CONTENT_BYTES:
            self._kept.append(chunk)
            # Empty chunks take room too.
            self._kept_bytes += max(size, 16)

    def attributes(self) -> dict[str, Value]:
        """Return what the span shall say of the chunks."""
        attributes: dict[str, Value] = {Attr.OUTPUT_SIZE: self._size, Attr.CHUNKS: self._chunks}
        if self._first_s is not None:
            attributes[Attr.FIRST_CHUNK_S] = self._first_s
        if self._keep:
            texts = all(isinstance(chunk, str) for chunk in self._kept)
            attributes[Attr.OUTPUT] = to_json("".join(self._kept) if texts else self._kept)
        return attributes


def wrap_coroutine(function: Callable[P, Awaitable[R]], wrapped: TracedFunction) -> Callable[P, Awaitable[R]]:
    """Put a span around each call of a coroutine function."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = wrapped.start(args, kwargs)
        if isinstance(run, NoOpSpan):
            return await function(*args, **kwargs)
        token = run.enter()
        try:
            result = await function(*args, **kwargs)
        except BaseException as exc:
            run.finish(exc)
            raise
        else:
            _finish(run, result)
            return result
        finally:
            run.leave(token)

    return call


def wrap_plain(function: Callable[P, R], wrapped: TracedFunction) -> Callable[P, R]:
    """Put a span around each call of a plain function."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = wrapped.start(args, kwargs)
        if isinstance(run, NoOpSpan):
            return function(*args, **kwargs)
        token = run.enter()
        try:
            result = function(*args, **kwargs)
        except BaseException as exc:
            run.finish(exc)
            raise
        else:
            _finish(run, result)
            return result
        finally:
            run.leave(token)

    return call


def wrap_generator(
    function: Callable[P, Generator[Y, S, R]], wrapped: TracedFunction
) -> Callable[P, Generator[Y, S, R]]:
    """Put a span around each run of a generator function."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, S, R]:
        body = function(*args, **kwargs)
        run = wrapped.start(args, kwargs)
        if isinstance(run, NoOpSpan):
            return (yield from body)
        stream = ChunkTotals(keep=run.captures)
        try:
            result = yield from _advance(body, run, stream)
        except BaseException as exc:
            run.finish(exc, stream.attributes())
            raise
        run.finish(None, stream.attributes())
        return result

    return call


def _advance(body: Generator[Y, S, R], run: SpanHandle, stream: ChunkTotals) -> Generator[Y, S, R]:
    """Run `body` step by step as `yield from` would (PEP 380), the span current inside each step only."""
    step: Callable[[Any], Y] = body.send
    argument: Any = None
    while True:
        token = run.enter()
        try:
            chunk = step(argument)
        except StopIteration as stop:
            return cast("R", stop.value)
        finally:
            run.leave(token)
        stream.add(chunk)
        try:
            step, argument = body.send, (yield chunk)
        except GeneratorExit:
            _close(body, run)
            raise
        except BaseException as exc:
            step, argument = body.throw, exc


def _close(body: Generator[Any, Any, Any], run: SpanHandle) -> None:
    token = run.enter()
    try:
        body.close()
    finally:
        run.leave(token)


def wrap_async_generator(
    function: Callable[P, AsyncGenerator[Y, S]], wrapped: TracedFunction
) -> Callable[P, AsyncGenerator[Y, S]]:
    """Put a span around each run of an async generator function."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Y, S]:
        body = function(*args, **kwargs)
        run = wrapped.start(args, kwargs)
        stream = ChunkTotals(keep=run.captures)
        step: Callable[[Any], Awaitable[Y]] = body.asend
        argument: Any = None
        try:
            while True:
                chunk = await _inside(run, step(argument))
                stream.add(chunk)
                step, argument = body.asend, None
                try:
                    argument = yield chunk
                except GeneratorExit:
                    await _inside(run, body.aclose())
                    raise
                except BaseException as exc:
                    step, argument = body.athrow, exc
        except StopAsyncIteration:
            run.finish(None, stream.attributes())
        except BaseException as exc:
            run.finish(exc, stream.attributes())
            raise

    return call


async def _inside(run: SpanHandle | NoOpSpan, step: Awaitable[R]) -> R:
    token = run.enter()
    try:
        return await step
    finally:
        run.leave(token)  # type: ignore[arg-type]  # each takes back the token that it gave


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(item.name for item in parameters if item.kind in positional)


def _has_receiver(function: Callable[..., Any]) -> bool:
    """Say whether the first argument is the object or class that a method is called on."""
    owner = getattr(function, "__qualname__", "").rpartition(".")[0]
    names = _parameters(function)
    return bool(owner) and not owner.endswith("<locals>") and bool(names) and names[0] in _RECEIVERS
