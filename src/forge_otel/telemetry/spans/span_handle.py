"""A running span: started, current while its code runs, ended once with its duration metric.

Every decorated call passes through this module. Hence one attribute dictionary at the start and one at the end, plain
attach and detach instead of OpenTelemetry's generator-based context managers, and a histogram point that is recorded
when metrics are collected.
"""

import logging
import time
from collections.abc import Mapping
from contextvars import Token
from dataclasses import dataclass
from typing import Final, Literal, Unpack

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from forge_otel.context import current_generation
from forge_otel.names import Attr, Instrument, Metric, Operation
from forge_otel.telemetry.genai.model_calls import ModelCallReader
from forge_otel.telemetry.genai.usage import UsageDetails, reported_call
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.telemetry.spans.exceptions import mark_failed
from forge_otel.telemetry.spans.proxy_tracer import ProxyTracer
from forge_otel.types import Step

__all__ = ["NO_OP_SPAN", "NoOpSpan", "SpanHandle", "SpanPlan", "SpanRecorder", "SpanType", "Value"]

_logger = logging.getLogger(__name__)

SpanType = Literal["agent", "tool", "step", "chain", "retriever", "embedding", "llm"]
Value = str | bool | int | float

_OPERATIONS: Final[Mapping[str, str]] = {
    "agent": Operation.INVOKE_AGENT,
    "tool": Operation.EXECUTE_TOOL,
    "retriever": Operation.RETRIEVAL,
    "embedding": Operation.EMBEDDINGS,
    "llm": Operation.CHAT,
}
# The types with a duration metric, which are also in a generation's list of steps.
_DURATIONS: Final[Mapping[str, Instrument]] = {
    "agent": Metric.AGENT_DURATION,
    "tool": Metric.TOOL_DURATION,
    "step": Metric.STEP_DURATION,
}
# The conventions give calls to other services the span kind CLIENT.
_REMOTE: Final = frozenset({"retriever", "embedding", "llm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecorder:
    """The parts of a `Telemetry` that spans are recorded with.

    Args:
        tracer: starts the spans.
        instruments: record the durations.
        model_calls: records the usage that applications report.
        captures_content: whether inputs, outputs and exception messages are recorded.
    """

    tracer: ProxyTracer
    instruments: Instruments
    model_calls: ModelCallReader
    captures_content: bool


@dataclass(frozen=True, slots=True)
class SpanPlan:
    """Name, kind, attributes and metric labels of a span, computed once for a decorated function.

    Args:
        name: as given by the user; the value of the metric label.
        span_name: by the conventions, with the operation.
        attributes: set when a span starts.
        labels: of the duration metric.
    """

    name: str
    kind: SpanType
    span_name: str
    span_kind: SpanKind
    attributes: Mapping[str, Value]
    labels: Mapping[str, Value]

    @classmethod
    def of(cls, kind: SpanType, name: str, attributes: Mapping[str, Value] | None = None) -> "SpanPlan":
        """Return the plan of a span of type `kind`, named by the GenAI conventions."""
        fixed: dict[str, Value] = {Attr.SPAN_KIND: kind}
        operation = _OPERATIONS.get(kind)
        if operation is not None:
            fixed[Attr.GEN_AI_OPERATION] = operation
        if kind == "agent":
            fixed[Attr.GEN_AI_AGENT_NAME] = name
        elif kind == "tool":
            fixed[Attr.GEN_AI_TOOL_NAME] = name
        return cls(
            name=name,
            kind=kind,
            span_name=f"{operation} {name}" if kind in {"agent", "tool"} else name,
            span_kind=SpanKind.CLIENT if kind in _REMOTE else SpanKind.INTERNAL,
            attributes={**fixed, **(attributes or {})},
            labels=_labels(kind, name),
        )


def _labels(kind: SpanType, name: str) -> dict[str, Value]:
    if kind == "tool":
        return {Attr.GEN_AI_TOOL_NAME: name}
    return {Attr.STEP_NAME: name} if kind == "step" else {Attr.GEN_AI_AGENT_NAME: name, Attr.SPAN_KIND: kind}


class SpanHandle:
    """A running span.

    Args:
        captures: whether inputs and outputs are recorded on it.
    """

    __slots__ = ("_context", "_ended", "_generation", "_plan", "_recorder", "_span", "_started_s", "captures")

    def __init__(
        self, recorder: SpanRecorder, plan: SpanPlan, attributes: Mapping[str, Value], *, captures: bool = False
    ) -> None:
        self.captures = captures
        self._recorder = recorder
        self._plan = plan
        self._generation = current_generation.get()
        self._ended = False
        self._started_s = time.monotonic()
        self._span = recorder.tracer.bound.start_span(plan.span_name, kind=plan.span_kind, attributes=attributes)
        self._context = trace.set_span_in_context(self._span)
        if self._generation is not None and plan.kind in _DURATIONS:
            self._generation.record_step_start(plan.name, plan.kind)

    @property
    def trace_id(self) -> str:
        """The trace id, 32 lower-case hex digits; zeros while tracing is off."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def is_recording(self) -> bool:
        """Return whether attributes can still be set and are recorded."""
        return not self._ended and self._span.is_recording()

    def set(self, key: str, value: Value) -> None:
        """Set an attribute; no effect on an ended span."""
        if not self._ended:
            self._span.set_attribute(key, value)

    def record_usage(self, input_tokens: int, output_tokens: int, **details: Unpack[UsageDetails]) -> None:
        """Record the usage of a model call that was made inside this span; see `Spans.record_usage`."""
        self._recorder.model_calls.record(self._span, reported_call(input_tokens, output_tokens, details))

    def enter(self) -> Token[Context]:
        """Make the span current; pair it with `leave`."""
        return otel_context.attach(self._context)

    def leave(self, token: Token[Context]) -> None:
        """Restore the context of before `enter`."""
        # The garbage collector may close a coroutine in a context in which `enter` was not called.
        if otel_context.get_current() is self._context:
            otel_context.detach(token)

    def finish(self, error: BaseException | None = None, attributes: Mapping[str, Value] | None = None) -> None:
        """End the span and record its duration; only the first call has an effect.

        Args:
            error: raised by the code. `GeneratorExit` is not a failure, cancellation is one.
            attributes: set before the end.
        """
        if self._ended:
            return
        self._ended = True
        try:
            self._finish(error, attributes)
        except Exception:
            _logger.exception("span of %s could not be ended", self._plan.name)

    def _finish(self, error: BaseException | None, attributes: Mapping[str, Value] | None) -> None:
        duration_s = time.monotonic() - self._started_s
        # The consumer closed the generator, which is no failure; possibly in a finalizer.
        closed = isinstance(error, GeneratorExit)
        error_type = None if error is None or closed else type(error).__name__
        if attributes:
            self._span.set_attributes(attributes)
        if error is not None and error_type is not None:
            with_text = self._recorder.captures_content
            mark_failed(self._span, error, error_type=error_type, with_text=with_text)
        if self._plan.kind in _DURATIONS:
            self._count(duration_s, error_type, in_finalizer=closed)
        self._span.end()

    def _count(self, duration_s: float, error_type: str | None, *, in_finalizer: bool) -> None:
        labels = self._plan.labels if error_type is None else {**self._plan.labels, Attr.ERROR_TYPE: error_type}
        self._recorder.instruments.record_later(
            _DURATIONS[self._plan.kind],
            duration_s,
            labels,
            exemplar=self._span.get_span_context(),
            in_finalizer=in_finalizer,
        )
        if self._generation is not None:
            step = Step(
                name=self._plan.name,
                kind=self._plan.kind,
                started_s=self._started_s - self._generation.started_s,
                duration_s=duration_s,
                error_type=error_type,
            )
            self._generation.record_step(step)


class NoOpSpan:
    """A `SpanHandle` without effect, used while no forge is open."""

    __slots__ = ()
    trace_id = "0" * 32
    is_recording = False
    captures = False

    def set(self, key: str, value: Value) -> None:
        """Do nothing."""

    def record_usage(self, input_tokens: int, output_tokens: int, **details: Unpack[UsageDetails]) -> None:
        """Do nothing."""

    def enter(self) -> None:
        """Do nothing."""

    def leave(self, token: object) -> None:
        """Do nothing."""

    def finish(self, error: BaseException | None = None, attributes: Mapping[str, Value] | None = None) -> None:
        """Do nothing."""


NO_OP_SPAN: Final = NoOpSpan()
