"""The outermost layer: one span per generation, with the layer that answered and the cost."""

import asyncio

from opentelemetry.trace import Span, SpanKind, format_trace_id

from forge_otel.context import Generation, current_generation, current_request
from forge_otel.layers.recording import quality_score_of
from forge_otel.names import Attr, Operation
from forge_otel.telemetry.langsmith.feedback import LangSmithFeedback
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.spans.exceptions import mark_failed
from forge_otel.types import Call, CallNext, Reply

__all__ = ["TracingLayer"]


class TracingLayer:
    """Runs each generation inside a span.

    Args:
        telemetry: provides the tracer, a new one each time the Forge is opened.
        feedback: links the run in LangSmith and scores it; None for neither.
        with_texts: whether messages of exceptions may be recorded.
    """

    def __init__(
        self, telemetry: Telemetry, *, feedback: LangSmithFeedback | None = None, with_texts: bool = False
    ) -> None:
        self._telemetry = telemetry
        self._feedback = feedback
        self._with_texts = with_texts

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call` inside its span."""
        generation = current_generation.get()
        with self._telemetry.tracer.bound.start_as_current_span(
            f"{Operation.INVOKE_WORKFLOW} {call.pipeline}",
            kind=SpanKind.INTERNAL,
            attributes=_attributes(call, generation),
            # Errors are marked below, because OpenTelemetry does not count a cancellation as an error.
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
                _add_generation(span, generation)
            _add_reply(span, reply)
            self._score(span, generation, reply)
            return reply

    def _link(self, span: Span, generation: Generation) -> None:
        if self._feedback is None or not self._feedback.is_enabled or not span.is_recording():
            return
        generation.run_url = self._feedback.run_url(span.get_span_context())
        request = current_request.get()
        if request is not None:
            request.run_url = generation.run_url

    def _score(self, span: Span, generation: Generation | None, reply: Reply) -> None:
        score = quality_score_of(reply.result)
        # An answer from a cache was scored when it was made.
        if self._feedback is None or generation is None or score is None or reply.source != "L4":
            return
        if span.is_recording():
            context = span.get_span_context()
            self._feedback.score(context, score, generation_id=generation.id, started_at=generation.started_at)


def _attributes(call: Call, generation: Generation | None) -> dict[str, str]:
    return {
        Attr.GEN_AI_OPERATION: Operation.INVOKE_WORKFLOW,
        Attr.GEN_AI_WORKFLOW_NAME: call.pipeline,
        Attr.COMPONENT_TYPE: call.request.component_type,
        Attr.COMPONENT_ID: call.component_id,
        Attr.GENERATION_KEY: call.key,
        Attr.GENERATION_ID: "" if generation is None else generation.id,
    }


def _add_generation(span: Span, generation: Generation | None) -> None:
    if generation is None:
        return
    span.set_attribute(Attr.COST_USD, float(generation.spent_usd))
    for layer, reason in generation.misses.items():
        span.set_attribute(f"{Attr.CACHE_MISS_REASON}.{layer}", reason)
    if generation.degraded:
        span.set_attribute(Attr.DEGRADED, list(generation.degraded))


def _add_reply(span: Span, reply: Reply) -> None:
    span.set_attribute(Attr.CACHE_LAYER, reply.source)
    span.set_attribute(Attr.SAVED_USD, float(reply.saved_usd))
    if reply.origin_id:
        span.set_attribute(Attr.GENERATION_ORIGIN, reply.origin_id)
