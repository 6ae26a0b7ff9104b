"""The reading of model calls from the spans of any instrumentation.

A span that ends with `gen_ai.usage.*` gives tokens, cost and metrics, and its cost is noted on the generation that
was running when it started: streams end where their reader happens to be, often in another task. Usage belongs to the
innermost span that carries it; what repeats it above is passed over (`told`).

`gen_ai.client.*` metrics are left to the instrumentations that record them themselves (those of OpenTelemetry do,
into the same meter provider), so that no call is in them twice; ours are for all other spans. Our own
`forge.genai.*` counters hold every call.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from itertools import islice
from typing import Any, Final

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
from forge_otel.types import Cost, Usage

__all__ = ["ModelCallReader"]

_MAX_OPEN: Final = 20_000
_UNKNOWN: Final = "unknown"
_MODEL_OPERATIONS: Final = frozenset(
    {Operation.CHAT, Operation.TEXT_COMPLETION, Operation.GENERATE_CONTENT, Operation.EMBEDDINGS}
)
# The error type of the conventions for an error that has no name.
_OTHER_ERROR: Final = "_OTHER"
_PARTS: Final = fields(Usage)
# Read in the sources of opentelemetry-instrumentation-openai-v2 2.4b0, -genai-openai 1.3b0 and -util-genai 1.3b0.
_RECORD_THEMSELVES: Final = ("opentelemetry.instrumentation.", "opentelemetry.util.genai")


class _Open:
    """What is remembered of a span from its start to its end; the rest is worked out if it tells of a model call."""

    __slots__ = ("above", "below", "call", "own", "running", "span")

    def __init__(self, span: Span | None, above: "_Open | None") -> None:
        self.span = span
        self.running = current_generation.get()
        self.call = current_call.get()
        self.above = above
        self.below: SeenCalls | None = None
        # The sum of what `ModelCallReader.record` was told for this span.
        self.own: ModelCall | None = None

    def line(self) -> Iterator["_Open"]:
        """Yield this span and those above it."""
        entry: _Open | None = self
        while entry is not None:
            yield entry
            entry = entry.above

    @property
    def generation(self) -> Generation | None:
        """The generation that the span works for, also where it runs in a thread that knows of none."""
        return next((entry.running for entry in self.line() if entry.running is not None), None)

    @property
    def component_type(self) -> str:
        """The component type of that generation."""
        return next((entry.call.request.component_type for entry in self.line() if entry.call is not None), "")

    @property
    def agent(self) -> str:
        """The innermost agent around the span."""
        for entry in self.line():
            name = (entry.span.attributes or {}).get(Attr.GEN_AI_AGENT_NAME) if entry.span is not None else None
            if isinstance(name, str):
                return name
        return ""


class ModelCallReader(SingletonProcessor):
    """Turns the usage of ended spans into cost and metrics.

    Args:
        instruments: where the points go.
        prices: model name to price; wins over the built-in price table.
    """

    def __init__(self, instruments: Instruments, *, prices: Mapping[str, ModelPrice] | None = None) -> None:
        self._instruments = instruments
        self._overrides = prices or {}
        self._prices = PriceBook(prices)
        self.on_cost: Callable[[int, Decimal], None] | None = None
        """Told of what a call has cost, and of the id of its trace."""
        self._open: dict[int, _Open] = {}
        # Reentrant, because the garbage collector may end a span inside the lock.
        self._lock = threading.RLock()

    def warm(self) -> None:
        """Load the price table, which takes half a second once; call it off the event loop."""
        self._prices.price(Usage(input_uncached=1), model="gpt-4o", provider="openai")

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember which generation and agent the span works for."""
        parent = span.parent
        above = self._open.get(parent.span_id) if parent is not None else None
        self._open[span.get_span_context().span_id] = _Open(span, above)
        if len(self._open) > _MAX_OPEN:
            self._forget()

    def on_end(self, span: ReadableSpan) -> None:
        """Count what the span tells of, if no span below has told of it."""
        context = span.get_span_context()
        entry = self._open.pop(context.span_id, None) if context is not None else None
        attributes = attributes_of(span)
        operation = attributes.get(Attr.GEN_AI_OPERATION)
        is_model_call = isinstance(operation, str) and operation in _MODEL_OPERATIONS
        if is_model_call:
            self._time(span, attributes)
        if USAGE_ATTRIBUTES.isdisjoint(attributes) or (entry is not None and entry.own is not None):
            return
        call = read_call(attributes)
        if call is None:
            return
        entry = entry or _Open(None, None)
        if self._claim(entry, call, by_program=False):
            self._count(entry, call, operation=str(operation) if is_model_call else Operation.CHAT, scope=_scope(span))

    def record(self, span: trace.Span, call: ModelCall) -> None:
        """Count a call that the program itself tells of, and write it on `span`.

        Args:
            span: the innermost one around the call; need not be recording.
        """
        entry = _Open(None, None)
        if span.is_recording():
            entry = self._open.setdefault(span.get_span_context().span_id, entry)
        if not self._claim(entry, call, by_program=True):
            return
        entry.own = call if entry.own is None else _sum(entry.own, call)
        span.set_attributes(_told(entry.own))
        self._count(entry, call, operation=Operation.CHAT, scope="")

    def _claim(self, entry: _Open, call: ModelCall, *, by_program: bool) -> bool:
        """Say whether `call` is news, and if so tell the spans above of it."""
        with self._lock:
            below = entry.below
            if below is not None and (below.repeats_by_program(call) if by_program else below.repeats(call)):
                return False
            for parent in islice(entry.line(), 1, None):
                parent.below = parent.below or SeenCalls()
                parent.below.add(call, by_program=by_program)
            return True

    def _forget(self) -> None:
        # Spans that never end would fill the table.
        with self._lock:
            for span_id in list(self._open)[: _MAX_OPEN // 10]:
                self._open.pop(span_id, None)

    def _count(self, entry: _Open, call: ModelCall, *, operation: str, scope: str) -> None:
        amount = self.price(call)
        model, provider = call.model or _UNKNOWN, call.provider or _UNKNOWN
        if (generation := entry.generation) is not None:
            generation.record_cost(
                Cost(api=provider, model=call.model, agent=entry.agent, usage=call.usage, amount_usd=amount)
            )
        for part in _PARTS:
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
        if not scope.startswith(_RECORD_THEMSELVES):
            self._client_usage(call.usage, operation=operation, provider=provider, model=model)

    def _client_usage(self, usage: Usage, *, operation: str, provider: str, model: str) -> None:
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            labels = {
                Attr.GEN_AI_OPERATION: operation,
                Attr.GEN_AI_PROVIDER: provider,
                Attr.GEN_AI_REQUEST_MODEL: model,
                Attr.GEN_AI_TOKEN_TYPE: kind,
            }
            self._instruments.record(Metric.TOKEN_USAGE, tokens, labels)

    def _time(self, span: ReadableSpan, attributes: Mapping[str, Any]) -> None:
        if span.end_time is None or span.start_time is None:
            return
        call = read_call(attributes)
        duration_s = (span.end_time - span.start_time) / 1e9
        first_s = _first_chunk_s(attributes)
        self._pace(call, duration_s - (first_s or 0.0))
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

    def _pace(self, call: ModelCall | None, writing_s: float) -> None:
        if call is None or not call.usage.output_tokens or writing_s <= 0:
            return
        labels = {Attr.GEN_AI_REQUEST_MODEL: call.model or _UNKNOWN}
        self._instruments.record(Metric.TOKEN_RATE, call.usage.output_tokens / writing_s, labels)

    def price(self, call: ModelCall) -> Decimal | None:
        """Return what `call` cost in USD, None where that is not known."""
        if call.cost_usd is not None:
            return call.cost_usd
        # The name that was asked for is the one that settings know, what answered is the one that price lists know.
        models = sorted(call.models, key=lambda model: model not in self._overrides)
        for model in models:
            amount = self._prices.price(call.usage, model=model, provider=call.provider or None)
            if amount is not None:
                return amount
        return None


def _first_chunk_s(attributes: Mapping[str, Any]) -> float | None:
    """Return how long a stream took to begin: as an instrumentation says, or one of our generators."""
    said = attributes.get(Attr.GEN_AI_FIRST_CHUNK_S, attributes.get(Attr.FIRST_CHUNK_S))
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) and said >= 0 else None


def _sum(one: ModelCall, other: ModelCall) -> ModelCall:
    reported = [call.cost_usd for call in (one, other) if call.cost_usd is not None]
    return ModelCall(
        usage=Usage(**{part.name: getattr(one.usage, part.name) + getattr(other.usage, part.name) for part in _PARTS}),
        models=other.models or one.models,
        provider=other.provider or one.provider,
        cost_usd=sum(reported, Decimal(0)) if reported else None,
    )


def _told(call: ModelCall) -> dict[str, str | int | float]:
    """Return the attributes of a span that tells of `call`."""
    usage = call.usage
    told: dict[str, str | int | float] = {
        Attr.GEN_AI_INPUT_TOKENS: usage.input_tokens,
        Attr.GEN_AI_OUTPUT_TOKENS: usage.output_tokens,
        Attr.GEN_AI_CACHE_READ_TOKENS: usage.cache_read,
        Attr.GEN_AI_CACHE_WRITE_TOKENS: usage.cache_write,
        Attr.GEN_AI_REASONING_TOKENS: usage.reasoning,
        Attr.GEN_AI_REQUEST_MODEL: call.model,
        Attr.GEN_AI_PROVIDER: call.provider,
    }
    told = {name: value for name, value in told.items() if value}
    if call.cost_usd is not None:
        told[Attr.GEN_AI_COST_USD] = float(call.cost_usd)
    return told


def _scope(span: ReadableSpan) -> str:
    return span.instrumentation_scope.name if span.instrumentation_scope is not None else ""
