"""The span decorators and context managers that users write.

`Spans` belongs to whoever can say what records now: a Forge, or the module-level twins that ask for the process
default. The question is asked at each call, so that functions can be decorated at import; without an answer a decorated
function simply runs.
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
    FindTelemetry,
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
    resolve: FindTelemetry,
) -> Callable[[F], F]:
    """Return a decorator that puts a span around each call.

    Args:
        kind: what the function is.
        name: of few values; the function's name where it is left out.
        capture: record inputs and outputs; None leaves it to the settings.
        attributes: on every span of the function.
        resolve: asked at each call for what records it.
    """

    def decorate(function: F) -> F:
        if isinstance(function, classmethod | staticmethod):
            return cast("F", type(function)(decorate(function.__func__)))
        if isinstance(function, type) or not callable(function):
            raise TypeError(f"{function!r} cannot be traced; decorate a function or a method")
        own_name: str = getattr(function, "__name__", type(function).__name__)
        plan = SpanPlan.of(kind, name or own_name, attributes)
        wrapped = TracedFunction(function, plan, capture=capture, resolve=resolve)
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
        kind: what the functions are.
        resolve: asked at each call for what records it.
    """

    def __init__(self, kind: SpanType, resolve: FindTelemetry) -> None:
        self._kind = kind
        self._resolve = resolve

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
        decorator = traced(self._kind, name, capture=capture, attributes=attributes, resolve=self._resolve)
        return decorator if subject is None or name is not None else decorator(subject)


class SpanScope:
    """A span for a block: `with` and `async with` give its `SpanHandle`. Enter it once.

    Args:
        resolve: asked on entry for what records it.
        plan: of the span.
    """

    def __init__(self, resolve: FindTelemetry, plan: SpanPlan) -> None:
        self._resolve = resolve
        self._plan = plan
        self._run: SpanHandle | NoOpSpan = NO_OP_SPAN
        self._token: Token[Context] | None = None

    def __enter__(self) -> SpanHandle | NoOpSpan:
        telemetry = self._resolve()
        if telemetry is not None:
            self._run = SpanHandle(telemetry, self._plan, self._plan.attributes)
            self._token = self._run.enter()
        return self._run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run.finish(error)
        if isinstance(self._run, SpanHandle) and self._token is not None:
            self._run.leave(self._token)

    async def __aenter__(self) -> SpanHandle | NoOpSpan:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class Spans:
    """Span decorators and context managers over whatever records at the time of the call.

    Args:
        resolve: returns it, or None.
    """

    def __init__(self, resolve: FindTelemetry) -> None:
        self._resolve = resolve
        self.agent = SpanDecorator("agent", resolve)
        self.tool = SpanDecorator("tool", resolve)
        self.step = SpanDecorator("step", resolve)
        self.chain = SpanDecorator("chain", resolve)
        self.retriever = SpanDecorator("retriever", resolve)
        self.embedding = SpanDecorator("embedding", resolve)
        self.llm = SpanDecorator("llm", resolve)

    def span(self, name: str, *, kind: SpanType = "step", attributes: Mapping[str, Value] | None = None) -> SpanScope:
        """Return a span for a `with` or `async with` block.

        Args:
            name: of few values, because it becomes a metric label; put what varies into attributes.
            kind: what the block is.
            attributes: set when the span starts.
        """
        return SpanScope(self._resolve, SpanPlan.of(kind, name, attributes))

    def record_usage(self, input_tokens: int, output_tokens: int, **about: Unpack[UsageDetails]) -> None:
        """Tell of a model call that no instrumentation sees; it is written on the current span, priced and counted.

        Where an instrumentation has told of the same figures on a span below, it is the same call, and nothing happens.

        Args:
            input_tokens: all tokens sent, cached ones included.
            output_tokens: all tokens received, reasoning included.
            **about: see `forge_otel.telemetry.genai.usage.UsageDetails`.
        """
        telemetry = self._resolve()
        if telemetry is not None:
            telemetry.model_calls.record(trace.get_current_span(), reported_call(input_tokens, output_tokens, about))
