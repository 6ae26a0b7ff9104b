"""Span decorators and context managers for users.

A `Spans` object belongs to a Forge, or to the module-level functions, which use the default Forge of the process. The
telemetry is looked up at each call, so that functions can be decorated at import; without an open Forge a decorated
function runs without a span.
"""

import inspect
from collections.abc import Callable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, TypeVar, Unpack, cast, overload

from opentelemetry import trace
from opentelemetry.context import Context

from forge_otel.telemetry.genai.usage import UsageDetails, reported_call
from forge_otel.telemetry.spans.span_handle import NO_OP_SPAN, NoOpSpan, SpanHandle, SpanPlan, SpanType, Value
from forge_otel.telemetry.spans.wrap import (
    FindRecorder,
    TracedFunction,
    wrap_async_generator,
    wrap_coroutine,
    wrap_generator,
    wrap_plain,
)

__all__ = ["SpanDecorator", "SpanScope", "Spans", "traced"]

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, Any, Any] | staticmethod[Any, Any]")


def traced(
    kind: SpanType,
    name: str | None = None,
    *,
    capture: bool | None = None,
    attributes: Mapping[str, Value] | None = None,
    find_recorder: FindRecorder,
) -> Callable[[F], F]:
    """Return a decorator that records a span for each call.

    Args:
        kind: type of the span.
        name: of low cardinality; by default the function's name.
        capture: whether inputs and outputs are recorded; None applies `FORGE_CAPTURE_CONTENT`.
        attributes: set on every span.
        find_recorder: called at each call.
    """

    def decorate(function: F) -> F:
        if isinstance(function, classmethod | staticmethod):
            return cast("F", type(function)(decorate(function.__func__)))
        if isinstance(function, type) or not callable(function):
            raise TypeError(f"{function!r} cannot be traced; decorate a function or a method")
        own_name: str = getattr(function, "__name__", type(function).__name__)
        plan = SpanPlan.of(kind, name or own_name, attributes)
        wrapped = TracedFunction(function, plan, capture=capture, find_recorder=find_recorder)
        # A wrapper of the same type as the function, because frameworks inspect it, as FastAPI inspects dependencies
        # with `yield`.
        if inspect.isasyncgenfunction(function):
            return cast("F", wrap_async_generator(function, wrapped))
        if inspect.iscoroutinefunction(function):
            return cast("F", wrap_coroutine(function, wrapped))
        if inspect.isgeneratorfunction(function):
            return cast("F", wrap_generator(function, wrapped))
        return cast("F", wrap_plain(function, wrapped))

    return decorate


class SpanDecorator:
    """Decorates functions of one kind: `@agent`, `@agent("name")`, `@agent(capture=True)`.

    Args:
        kind: type of the spans.
        find_recorder: called at each call.
    """

    def __init__(self, kind: SpanType, find_recorder: FindRecorder) -> None:
        self._kind = kind
        self._find_recorder = find_recorder

    @overload
    def __call__(self, function: F, /) -> F: ...

    @overload
    def __call__(
        self,
        name: str | None = None,
        /,
        *,
        capture: bool | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> Callable[[F], F]: ...

    def __call__(
        self,
        subject: Any = None,
        /,
        *,
        capture: bool | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> Any:
        """Decorate a function, or return the decorator for a name and options; see `traced`."""
        name = subject if isinstance(subject, str) else None
        decorator = traced(self._kind, name, capture=capture, attributes=attributes, find_recorder=self._find_recorder)
        return decorator if subject is None or name is not None else decorator(subject)


class SpanScope:
    """A span for one `with` or `async with` block, whose target is a `SpanHandle`.

    Args:
        find_recorder: called on entry.
        plan: of the span.
    """

    def __init__(self, find_recorder: FindRecorder, plan: SpanPlan) -> None:
        self._find_recorder = find_recorder
        self._plan = plan
        self._handle: SpanHandle | NoOpSpan = NO_OP_SPAN
        self._token: Token[Context] | None = None

    def __enter__(self) -> SpanHandle | NoOpSpan:
        recorder = self._find_recorder()
        if recorder is not None:
            self._handle = SpanHandle(recorder, self._plan, self._plan.attributes)
            self._token = self._handle.enter()
        return self._handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handle.finish(error)
        if isinstance(self._handle, SpanHandle) and self._token is not None:
            self._handle.leave(self._token)

    async def __aenter__(self) -> SpanHandle | NoOpSpan:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class Spans:
    """Span decorators and context managers, looking up the recorder at each call.

    Args:
        find_recorder: returns the recorder of the open telemetry, or None.
    """

    def __init__(self, find_recorder: FindRecorder) -> None:
        self._find_recorder = find_recorder
        self.agent = SpanDecorator("agent", find_recorder)
        self.tool = SpanDecorator("tool", find_recorder)
        self.step = SpanDecorator("step", find_recorder)
        self.chain = SpanDecorator("chain", find_recorder)
        self.retriever = SpanDecorator("retriever", find_recorder)
        self.embedding = SpanDecorator("embedding", find_recorder)
        self.llm = SpanDecorator("llm", find_recorder)

    def span(self, name: str, *, kind: SpanType = "step", attributes: Mapping[str, Value] | None = None) -> SpanScope:
        """Return a span for a `with` or `async with` block.

        Args:
            name: of low cardinality, because it becomes a metric label; ids belong into attributes.
            kind: type of the span.
            attributes: set when the span starts.
        """
        return SpanScope(self._find_recorder, SpanPlan.of(kind, name, attributes))

    def record_usage(self, input_tokens: int, output_tokens: int, **details: Unpack[UsageDetails]) -> None:
        """Record the usage and cost of a model call that no instrumentation records, on the current span.

        A call that an instrumentation has already reported with the same token counts, on a child span, is ignored.

        Args:
            input_tokens: all tokens sent, cached ones included.
            output_tokens: all tokens received, reasoning included.
            **details: see `forge_otel.telemetry.genai.usage.UsageDetails`.
        """
        recorder = self._find_recorder()
        if recorder is not None:
            recorder.model_calls.record(trace.get_current_span(), reported_call(input_tokens, output_tokens, details))
