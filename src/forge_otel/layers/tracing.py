"""The outermost layer: one span around a generation, whoever answers it."""

import asyncio
from datetime import datetime
from typing import Protocol

from opentelemetry.trace import Span, SpanContext, SpanKind, Tracer, format_trace_id

from forge_otel.context import Generation, current_generation, current_request
from forge_otel.layers.recording import finite
from forge_otel.names import Attr, Operation
from forge_otel.telemetry.spans.exceptions import mark_failed
from forge_otel.types import Call, CallNext, Reply

__all__ = ["TracingLayer"]


class Traced(Protocol):
    """Has a tracer, another one each time it is opened."""

    @property
    def tracer(self) -> Tracer:
        """Starts the spans."""
        ...


class Runs(Protocol):
    """What LangSmith makes of spans; `forge_otel.telemetry.langsmith.feedback.LangSmithFeedback` is one."""

    def run_url(self, context: SpanContext, /) -> str:
        """Return where the run of a span is shown, "" where that is not known."""
        ...

    def score(self, context: SpanContext, score: float, /, *, about: str, started_at: datetime) -> None:
        """Have a score put on the run of a span; returns at once."""
        ...


class TracingLayer:
    """Opens the generation's span and says on it who answered, for how much.

    Args:
        telemetry: records nothing where tracing is off, and the layer still works.
        runs: links and scores the run of a generation.
        with_texts: whether what an exception says may be recorded.
    """

    def __init__(self, telemetry: Traced, *, runs: Runs | None = None, with_texts: bool = False) -> None:
        self._telemetry = telemetry
        self._runs = runs
        self._with_texts = with_texts

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call` inside its span."""
        generation = current_generation.get()
        with self._telemetry.tracer.start_as_current_span(
            f"{Operation.INVOKE_WORKFLOW} {call.pipeline}",
            kind=SpanKind.INTERNAL,
            attributes=_attributes(call, generation),
            # Errors are marked below, so that a cancelled generation is one too.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if generation is not None:
                generation.trace_id = format_trace_id(span.get_span_context().trace_id)
                self._link(span, generation)
            try:
                reply = await call_next(call)
            except (Exception, asyncio.CancelledError) as exc:
                mark_failed(span, exc, error_type=type(exc).__name__, with_text=self._with_texts)
                raise
            finally:
                _conclude(span, generation)
            _answer(span, reply)
            self._score(span, generation, reply)
            return reply

    def _link(self, span: Span, generation: Generation) -> None:
        if self._runs is None or not span.is_recording():
            return
        generation.run_url = self._runs.run_url(span.get_span_context())
        request = current_request.get()
        if request is not None:
            request.run_url = generation.run_url

    def _score(self, span: Span, generation: Generation | None, reply: Reply) -> None:
        score = finite(reply.result.metadata.get("quality_score"))
        # An answer from the cache was judged when it was made.
        if self._runs is None or generation is None or score is None or reply.source != "L4":
            return
        if span.is_recording():
            context = span.get_span_context()
            self._runs.score(context, score, about=generation.id, started_at=generation.started_at)


def _attributes(call: Call, generation: Generation | None) -> dict[str, str]:
    return {
        Attr.GEN_AI_OPERATION: Operation.INVOKE_WORKFLOW,
        Attr.GEN_AI_WORKFLOW_NAME: call.pipeline,
        Attr.COMPONENT_TYPE: call.request.component_type,
        Attr.COMPONENT_ID: call.component_id,
        Attr.GENERATION_KEY: call.key,
        Attr.GENERATION_ID: "" if generation is None else generation.id,
    }


def _conclude(span: Span, generation: Generation | None) -> None:
    if generation is None:
        return
    span.set_attribute(Attr.COST_USD, float(generation.spent_usd))
    for layer, reason in generation.misses.items():
        span.set_attribute(f"{Attr.CACHE_MISS_REASON}.{layer}", reason)
    if generation.degraded:
        span.set_attribute(Attr.DEGRADED, list(generation.degraded))


def _answer(span: Span, reply: Reply) -> None:
    span.set_attribute(Attr.CACHE_LAYER, reply.source)
    span.set_attribute(Attr.SAVED_USD, float(reply.saved_usd))
    if reply.origin_id:
        span.set_attribute(Attr.GENERATION_ORIGIN, reply.origin_id)
