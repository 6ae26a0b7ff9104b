"""Tokens, cost and metrics of model calls, read from the ended spans of any instrumentation.

The cost of a span with `gen_ai.usage.*` attributes is added to the generation that was running when the span started.
Usage belongs to the innermost span that has it; repetitions on the spans above are ignored (see `deduplication`).
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from itertools import islice
from typing import Any, ClassVar, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import StatusCode

from forge_otel.context import Generation, current_call, current_generation
from forge_otel.names import Attr, Metric, Operation
from forge_otel.pricing import ModelPrice, PriceBook
from forge_otel.telemetry.genai.deduplication import SeenCalls
from forge_otel.telemetry.genai.usage import USAGE_ATTRIBUTES, ModelCall, read_call
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.telemetry.processor_hub import SingletonProcessor, attributes_of
from forge_otel.telemetry.unrecorded import UnrecordedActivity
from forge_otel.types import Cost, Usage

__all__ = ["ModelCallReader"]

_MAX_OPEN: Final = 20_000
_UNKNOWN: Final = "unknown"
_MODEL_OPERATIONS: Final = frozenset(
    {Operation.CHAT, Operation.TEXT_COMPLETION, Operation.GENERATE_CONTENT, Operation.EMBEDDINGS}
)
# `error.type` by the conventions for an error without a name.
_OTHER_ERROR: Final = "_OTHER"
_TOKEN_TYPES: Final = fields(Usage)
# By the sources of opentelemetry-instrumentation-openai-v2 2.4b0, -genai-openai 1.3b0 and -util-genai 1.3b0.
_RECORD_THEMSELVES: Final = ("opentelemetry.instrumentation.", "opentelemetry.util.genai")


class _OpenSpan:
    """The context of a span between its start and its end."""

    __slots__ = ("call", "current_generation", "parent", "reported", "seen", "span")

    def __init__(self, span: Span | None, parent: "_OpenSpan | None") -> None:
        self.span = span
        self.current_generation = current_generation.get()
        self.call = current_call.get()
        self.parent = parent
        # Model calls counted below, None without any.
        self.seen: SeenCalls | None = None
        # Sum of the calls that the application reported for this span.
        self.reported: ModelCall | None = None

    def ancestry(self) -> Iterator["_OpenSpan"]:
        """Yield this span and its ancestors."""
        entry: _OpenSpan | None = self
        while entry is not None:
            yield entry
            entry = entry.parent

    # The properties search the ancestors, because a thread may have started the span with an empty context.
    @property
    def generation(self) -> Generation | None:
        """The generation around the span."""
        generations = (entry.current_generation for entry in self.ancestry())
        return next((generation for generation in generations if generation is not None), None)

    @property
    def component_type(self) -> str:
        """The component type of the generation, "" without one."""
        return next((entry.call.request.component_type for entry in self.ancestry() if entry.call is not None), "")

    @property
    def agent(self) -> str:
        """The innermost agent around the span, "" without one."""
        for entry in self.ancestry():
            name = (entry.span.attributes or {}).get(Attr.GEN_AI_AGENT_NAME) if entry.span is not None else None
            if isinstance(name, str):
                return name
        return ""


class ModelCallReader(SingletonProcessor):
    """Span processor that records the cost and the metrics of model calls.

    Args:
        instruments: record the metrics.
        prices: prices by model name, which take precedence over the built-in price table.
    """

    # By span id, shared by all readers of the process: with two Forges, the call that one reports may have been counted
    # by the other, and a span may have its parent at another tracer provider. A plain dict, because a BoundedMap would
    # cost every span of the process about 1 µs.
    _open: ClassVar[dict[int, _OpenSpan]] = {}
    # Reentrant, because the garbage collector may end a span inside the lock.
    _lock: ClassVar = threading.RLock()

    def __init__(self, instruments: Instruments, *, prices: Mapping[str, ModelPrice] | None = None) -> None:
        self._instruments = instruments
        self._overrides = prices or {}
        self._prices = PriceBook(prices)
        self.on_cost: Callable[[int, Decimal], None] | None = None
        """Called with the trace id and the cost of each priced call."""
        self.unrecorded = UnrecordedActivity()
        """Receives the calls outside of generations."""

    def warm(self) -> None:
        """Load the price table, which takes about 0.5 s the first time; call it off the event loop."""
        self._prices.price(Usage(input_uncached=1), model="gpt-4o", provider="openai")

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Keep the generation and the agent that the span belongs to."""
        parent = span.parent
        entry = self._open.get(parent.span_id) if parent is not None else None
        # Taken at the start, because a stream often ends in another task, outside of its generation.
        self._open[span.get_span_context().span_id] = _OpenSpan(span, entry)
        if len(self._open) > _MAX_OPEN:
            self._evict_oldest()

    def on_end(self, span: ReadableSpan) -> None:
        """Record the model call of the span, unless a span below has recorded it."""
        context = span.get_span_context()
        entry = self._open.pop(context.span_id, None) if context is not None else None
        attributes = attributes_of(span)
        operation = attributes.get(Attr.GEN_AI_OPERATION)
        is_model_call = isinstance(operation, str) and operation in _MODEL_OPERATIONS
        if is_model_call:
            self._record_duration(span, attributes)
        if USAGE_ATTRIBUTES.isdisjoint(attributes) or (entry is not None and entry.reported is not None):
            return
        call = read_call(attributes)
        if call is None:
            return
        entry = entry or _OpenSpan(None, None)
        if self._is_new(entry, call, is_reported=False):
            self._count(entry, call, operation=str(operation) if is_model_call else Operation.CHAT, scope=_scope(span))

    def record(self, span: trace.Span, call: ModelCall) -> None:
        """Count a call that the application reports, and set its usage on `span`.

        Args:
            span: the innermost span around the call; it need not be recording.
        """
        entry = _OpenSpan(None, None)
        if span.is_recording():
            entry = self._open.setdefault(span.get_span_context().span_id, entry)
        if not self._is_new(entry, call, is_reported=True):
            return
        entry.reported = call if entry.reported is None else _sum(entry.reported, call)
        span.set_attributes(_usage_attributes(entry.reported))
        self._count(entry, call, operation=Operation.CHAT, scope="")

    def _is_new(self, entry: _OpenSpan, call: ModelCall, *, is_reported: bool) -> bool:
        """Return whether `call` was not counted below `entry`; add it to the seen calls of the ancestors."""
        with self._lock:
            seen = entry.seen
            if seen is not None and (seen.take(call) if is_reported else seen.has_model_of(call)):
                return False
            for parent in islice(entry.ancestry(), 1, None):
                parent.seen = parent.seen or SeenCalls()
                parent.seen.add(call, is_reported=is_reported)
            return True

    def _evict_oldest(self) -> None:
        # Spans that never end would otherwise accumulate.
        with self._lock:
            for span_id in list(self._open)[: _MAX_OPEN // 10]:
                self._open.pop(span_id, None)

    def _count(self, entry: _OpenSpan, call: ModelCall, *, operation: str, scope: str) -> None:
        amount = self.price(call)
        model, provider = call.model or _UNKNOWN, call.provider or _UNKNOWN
        if (generation := entry.generation) is not None:
            generation.record_cost(
                Cost(api=provider, model=call.model, agent=entry.agent, usage=call.usage, amount_usd=amount)
            )
        else:
            self.unrecorded.add_call(amount)
        for part in _TOKEN_TYPES:
            if tokens := getattr(call.usage, part.name):
                labels = {Attr.GEN_AI_REQUEST_MODEL: model, Attr.TOKEN_TYPE: part.name}
                self._instruments.add(Metric.TOKENS, tokens, labels)
        if amount is None:
            self._instruments.add(Metric.UNPRICED, 1, {Attr.GEN_AI_REQUEST_MODEL: model})
        else:
            labels = {Attr.GEN_AI_PROVIDER: provider, Attr.GEN_AI_REQUEST_MODEL: model}
            if component_type := entry.component_type:
                labels[Attr.COMPONENT_TYPE] = component_type
            self._instruments.add(Metric.COST, float(amount), labels)
            if self.on_cost is not None and entry.span is not None:
                self.on_cost(entry.span.get_span_context().trace_id, amount)
        # OpenTelemetry's own instrumentations record the `gen_ai.client.*` metrics themselves.
        if not scope.startswith(_RECORD_THEMSELVES):
            self._record_usage(call.usage, operation=operation, provider=provider, model=model)

    def _record_usage(self, usage: Usage, *, operation: str, provider: str, model: str) -> None:
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            labels = {
                Attr.GEN_AI_OPERATION: operation,
                Attr.GEN_AI_PROVIDER: provider,
                Attr.GEN_AI_REQUEST_MODEL: model,
                Attr.GEN_AI_TOKEN_TYPE: kind,
            }
            self._instruments.record(Metric.TOKEN_USAGE, tokens, labels)

    def _record_duration(self, span: ReadableSpan, attributes: Mapping[str, Any]) -> None:
        if span.end_time is None or span.start_time is None:
            return
        call = read_call(attributes)
        duration_s = (span.end_time - span.start_time) / 1e9
        first_s = _first_chunk_s(attributes)
        self._record_rate(call, duration_s - (first_s or 0.0))
        if _scope(span).startswith(_RECORD_THEMSELVES):
            return
        labels = {
            Attr.GEN_AI_OPERATION: str(attributes.get(Attr.GEN_AI_OPERATION)),
            Attr.GEN_AI_PROVIDER: str(attributes.get(Attr.GEN_AI_PROVIDER) or attributes.get(Attr.GEN_AI_SYSTEM) or ""),
            Attr.GEN_AI_REQUEST_MODEL: call.model if call else str(attributes.get(Attr.GEN_AI_REQUEST_MODEL) or ""),
        }
        labels = {name: value or _UNKNOWN for name, value in labels.items()}
        if first_s is not None:
            self._instruments.record(Metric.FIRST_CHUNK, first_s, labels)
        if span.status.status_code is StatusCode.ERROR:
            labels[Attr.ERROR_TYPE] = str(attributes.get(Attr.ERROR_TYPE) or _OTHER_ERROR)
        self._instruments.record(Metric.LLM_DURATION, duration_s, labels)

    def _record_rate(self, call: ModelCall | None, output_s: float) -> None:
        if call is None or not call.usage.output_tokens or output_s <= 0:
            return
        labels = {Attr.GEN_AI_REQUEST_MODEL: call.model or _UNKNOWN}
        self._instruments.record(Metric.TOKEN_RATE, call.usage.output_tokens / output_s, labels)

    def price(self, call: ModelCall) -> Decimal | None:
        """Return the cost of `call` in USD, None if the price is unknown."""
        if call.cost_usd is not None:
            return call.cost_usd
        # Prices in the settings are by the requested model, the built-in list knows the versions of responses.
        models = sorted(call.models, key=lambda model: model not in self._overrides)
        for model in models:
            amount = self._prices.price(call.usage, model=model, provider=call.provider or None)
            if amount is not None:
                return amount
        return None


def _first_chunk_s(attributes: Mapping[str, Any]) -> float | None:
    """Return the seconds to the first chunk of a stream, set by an instrumentation or one of our decorators."""
    value = attributes.get(Attr.GEN_AI_FIRST_CHUNK_S, attributes.get(Attr.FIRST_CHUNK_S))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _sum(one: ModelCall, other: ModelCall) -> ModelCall:
    reported = [call.cost_usd for call in (one, other) if call.cost_usd is not None]
    return ModelCall(
        usage=Usage(
            **{part.name: getattr(one.usage, part.name) + getattr(other.usage, part.name) for part in _TOKEN_TYPES}
        ),
        models=other.models or one.models,
        provider=other.provider or one.provider,
        cost_usd=sum(reported, Decimal(0)) if reported else None,
    )


def _usage_attributes(call: ModelCall) -> dict[str, str | int | float]:
    """Return the span attributes that describe `call`."""
    usage = call.usage
    attributes: dict[str, str | int | float] = {
        Attr.GEN_AI_INPUT_TOKENS: usage.input_tokens,
        Attr.GEN_AI_OUTPUT_TOKENS: usage.output_tokens,
        Attr.GEN_AI_CACHE_READ_TOKENS: usage.cache_read,
        Attr.GEN_AI_CACHE_WRITE_TOKENS: usage.cache_write,
        Attr.GEN_AI_REASONING_TOKENS: usage.reasoning,
        Attr.GEN_AI_REQUEST_MODEL: call.model,
        Attr.GEN_AI_PROVIDER: call.provider,
    }
    attributes = {name: value for name, value in attributes.items() if value}
    if call.cost_usd is not None:
        attributes[Attr.GEN_AI_COST_USD] = float(call.cost_usd)
    return attributes


def _scope(span: ReadableSpan) -> str:
    return span.instrumentation_scope.name if span.instrumentation_scope is not None else ""
