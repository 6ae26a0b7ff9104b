"""One catalog of every span attribute, instrument and environment variable.

No other module spells a telemetry name. GenAI names are our own table, because the constants of
``opentelemetry-semantic-conventions`` are deprecated there; HTTP names follow the stable conventions (semconv 1.44).
"""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["CATALOG", "SCOPE", "Attr", "Instrument", "Metric", "Operation"]

SCOPE: Final = "forge_otel"
"""The instrumentation scope of everything that the library records."""


class Attr:
    """Span and metric attributes."""

    # Generations
    COMPONENT_TYPE: Final = "forge.component.type"
    COMPONENT_ID: Final = "forge.component.id"
    GENERATION_ID: Final = "forge.generation.id"
    GENERATION_ORIGIN: Final = "forge.generation.origin.id"
    GENERATION_KEY: Final = "forge.generation.key"
    PIPELINE_VERSION: Final = "forge.pipeline.version"
    OUTCOME: Final = "forge.outcome"
    DEGRADED: Final = "forge.degraded"
    COST_USD: Final = "forge.cost.usd"
    SAVED_USD: Final = "forge.saved.usd"
    SPAN_KIND: Final = "forge.span.kind"
    INPUT_SIZE: Final = "forge.input.size"
    OUTPUT_SIZE: Final = "forge.output.size"
    CHUNKS: Final = "forge.stream.chunks"
    FIRST_CHUNK_S: Final = "forge.stream.time_to_first_chunk"
    INPUT: Final = "forge.input"
    OUTPUT: Final = "forge.output"
    # Caches
    CACHE_LAYER: Final = "cache.layer"
    CACHE_RESULT: Final = "cache.result"
    CACHE_OUTCOME: Final = "cache.outcome"
    CACHE_OPERATION: Final = "cache.operation"
    CACHE_MISS_REASON: Final = "cache.miss.reason"
    CACHE_STORE_SKIPPED: Final = "cache.store.skipped"
    # Who
    USER_ID: Final = "user.id"
    SESSION_ID: Final = "session.id"
    TENANT: Final = "forge.tenant"
    # GenAI (repository semantic-conventions-genai)
    GEN_AI_OPERATION: Final = "gen_ai.operation.name"
    GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
    GEN_AI_SYSTEM: Final = "gen_ai.system"
    GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
    GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
    GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
    GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
    GEN_AI_WORKFLOW_NAME: Final = "gen_ai.workflow.name"
    GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
    GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
    GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
    GEN_AI_CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
    GEN_AI_CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
    GEN_AI_REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
    GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
    GEN_AI_COST_USD: Final = "gen_ai.usage.cost.amount"
    TOKEN_TYPE: Final = "token.type"
    # HTTP
    HTTP_METHOD: Final = "http.request.method"
    HTTP_METHOD_ORIGINAL: Final = "http.request.method_original"
    HTTP_ROUTE: Final = "http.route"
    HTTP_STATUS: Final = "http.response.status_code"
    HTTP_RESPONSE_SIZE: Final = "http.response.body.size"
    HTTP_REQUEST_SIZE: Final = "http.request.body.size"
    URL_PATH: Final = "url.path"
    URL_SCHEME: Final = "url.scheme"
    URL_QUERY: Final = "url.query"
    SERVER_ADDRESS: Final = "server.address"
    SERVER_PORT: Final = "server.port"
    CLIENT_ADDRESS: Final = "client.address"
    NETWORK_PROTOCOL_VERSION: Final = "network.protocol.version"
    USER_AGENT: Final = "user_agent.original"
    ERROR_TYPE: Final = "error.type"
    # Helpers
    BREAKER_NAME: Final = "forge.breaker.name"
    BREAKER_STATE: Final = "forge.breaker.state"
    FALLBACK: Final = "forge.fallback"
    BREAKER_FROM: Final = "from"
    BREAKER_TO: Final = "to"
    OUTBOX_SINK: Final = "forge.sink"
    REASON: Final = "reason"
    VERSION: Final = "version"


class Operation:
    """Values of ``gen_ai.operation.name``."""

    INVOKE_WORKFLOW: Final = "invoke_workflow"
    INVOKE_AGENT: Final = "invoke_agent"
    EXECUTE_TOOL: Final = "execute_tool"
    CHAT: Final = "chat"
    TEXT_COMPLETION: Final = "text_completion"
    GENERATE_CONTENT: Final = "generate_content"
    EMBEDDINGS: Final = "embeddings"
    RETRIEVAL: Final = "retrieval"


# Bounds hold the targets exactly, so that no alert interpolates: 60 and 90 s are generation limits.
_LONG_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 75.0, 90.0, 120.0, 180.0, 300.0)
_HTTP_S = (0.005, 0.01, 0.025, *_LONG_S)
_LLM_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 120.0, 163.84, 300.0)
_AGENT_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_TOKENS = tuple(float(4**power) for power in range(14))

Kind = Literal["counter", "histogram", "up_down_counter", "observable_gauge", "observable_counter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One instrument, from which the meter, the docs, the dashboards and the alert rules are made and checked.

    Args:
        name: the OpenTelemetry name; never holds a unit, ``total`` or ``count``.
        unit: UCUM, annotations in braces.
        attributes: every attribute that a point may carry.
        bounds: bucket bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


class Metric:
    """Every instrument by its constant."""

    HTTP_DURATION: Final = Instrument(
        name="http.server.request.duration",
        kind="histogram",
        unit="s",
        description="Duration of HTTP server requests, to the last byte sent.",
        attributes=(Attr.HTTP_METHOD, Attr.HTTP_ROUTE, Attr.HTTP_STATUS, Attr.ERROR_TYPE, Attr.URL_SCHEME),
        bounds=_HTTP_S,
    )
    # Counted in the process and asked for when metrics are collected: two points a request cost as much as its span.
    HTTP_ACTIVE: Final = Instrument(
        name="http.server.active_requests",
        kind="observable_gauge",
        unit="{request}",
        description="Number of HTTP requests in flight.",
        attributes=(Attr.HTTP_METHOD, Attr.URL_SCHEME),
    )
    GENERATION_DURATION: Final = Instrument(
        name="forge.generation.duration",
        kind="histogram",
        unit="s",
        description="Duration of generations by who answered.",
        attributes=(Attr.COMPONENT_TYPE, Attr.CACHE_LAYER, Attr.OUTCOME),
        bounds=_LONG_S,
    )
    GENERATION_ACTIVE: Final = Instrument(
        name="forge.generation.active",
        kind="up_down_counter",
        unit="{generation}",
        description="Number of generations in flight.",
    )
    CACHE_REQUESTS: Final = Instrument(
        name="forge.cache.requests",
        kind="counter",
        unit="{request}",
        description="Look-ups in a cache layer by their result.",
        attributes=(Attr.CACHE_LAYER, Attr.CACHE_RESULT, Attr.CACHE_MISS_REASON),
    )
    CACHE_LOOKUPS: Final = Instrument(
        name="forge.cache.lookups",
        kind="counter",
        unit="{lookup}",
        description="Generations by the layer that answered, each counted once.",
        attributes=(Attr.CACHE_OUTCOME, Attr.CACHE_LAYER),
    )
    CACHE_DURATION: Final = Instrument(
        name="forge.cache.operation.duration",
        kind="histogram",
        unit="s",
        description="Duration of cache operations.",
        attributes=(Attr.CACHE_LAYER, Attr.CACHE_OPERATION),
        bounds=_FAST_S,
    )
    SAVED: Final = Instrument(
        name="forge.genai.cost.saved.usd",
        kind="counter",
        unit="{USD}",
        description="Recorded cost of the generations that cache hits did not have to repeat.",
        attributes=(Attr.CACHE_LAYER, Attr.COMPONENT_TYPE),
    )
    COST: Final = Instrument(
        name="forge.genai.cost.usd",
        kind="counter",
        unit="{USD}",
        description="Money spent on model calls.",
        attributes=(Attr.GEN_AI_PROVIDER, Attr.GEN_AI_REQUEST_MODEL, Attr.COMPONENT_TYPE),
    )
    UNPRICED: Final = Instrument(
        name="forge.genai.cost.unpriced",
        kind="counter",
        unit="{call}",
        description="Model calls whose price is not known.",
        attributes=(Attr.GEN_AI_REQUEST_MODEL,),
    )
    TOKENS: Final = Instrument(
        name="forge.genai.tokens",
        kind="counter",
        unit="{token}",
        description="Tokens as a partition by type: the sum is the bill.",
        attributes=(Attr.GEN_AI_REQUEST_MODEL, Attr.TOKEN_TYPE),
    )
    LLM_DURATION: Final = Instrument(
        name="gen_ai.client.operation.duration",
        kind="histogram",
        unit="s",
        description="Duration of model calls.",
        attributes=(Attr.GEN_AI_OPERATION, Attr.GEN_AI_PROVIDER, Attr.GEN_AI_REQUEST_MODEL, Attr.ERROR_TYPE),
        bounds=_LLM_S,
    )
    TOKEN_USAGE: Final = Instrument(
        name="gen_ai.client.token.usage",
        kind="histogram",
        unit="{token}",
        description="Tokens of model calls.",
        attributes=(Attr.GEN_AI_OPERATION, Attr.GEN_AI_PROVIDER, Attr.GEN_AI_REQUEST_MODEL, Attr.GEN_AI_TOKEN_TYPE),
        bounds=_TOKENS,
    )
    AGENT_DURATION: Final = Instrument(
        name="gen_ai.invoke_agent.duration",
        kind="histogram",
        unit="s",
        description="Duration of agents, tools and steps.",
        attributes=(Attr.GEN_AI_AGENT_NAME, Attr.SPAN_KIND, Attr.ERROR_TYPE),
        bounds=_AGENT_S,
    )
    BREAKER_STATE: Final = Instrument(
        name="forge.breaker.state",
        kind="observable_gauge",
        unit="",
        description="1 for the state that a circuit breaker is in, 0 for the others.",
        attributes=(Attr.BREAKER_NAME, Attr.BREAKER_STATE),
    )
    BREAKER_TRANSITIONS: Final = Instrument(
        name="forge.breaker.transitions",
        kind="counter",
        unit="{transition}",
        description="State changes of circuit breakers.",
        attributes=(Attr.BREAKER_NAME, Attr.BREAKER_FROM, Attr.BREAKER_TO),
    )
    BREAKER_CALLS: Final = Instrument(
        name="forge.breaker.calls",
        kind="observable_counter",
        unit="{call}",
        description="Calls through circuit breakers by outcome.",
        attributes=(Attr.BREAKER_NAME, Attr.OUTCOME),
    )
    RETRIES: Final = Instrument(
        name="forge.retry.attempts",
        kind="counter",
        unit="{attempt}",
        description="Attempts after the first, by service; exhausted where the retry budget said no.",
        attributes=(Attr.BREAKER_NAME, Attr.OUTCOME),
    )
    FALLBACKS: Final = Instrument(
        name="forge.fallback.activations",
        kind="counter",
        unit="{activation}",
        description="Answers that a fallback gave in place of a service.",
        attributes=(Attr.BREAKER_NAME, Attr.FALLBACK),
    )
    ERROR_SPIKE: Final = Instrument(
        name="forge.errors.spike",
        kind="observable_gauge",
        unit="",
        description="1 while the share of failed generations is well above usual.",
    )
    OUTBOX_PRODUCED: Final = Instrument(
        name="forge.outbox.produced",
        kind="observable_counter",
        unit="{record}",
        description="Records offered to the outbox for a sink.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_DELIVERED: Final = Instrument(
        name="forge.outbox.delivered",
        kind="observable_counter",
        unit="{record}",
        description="Records that a sink has stored.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    OUTBOX_DROPPED: Final = Instrument(
        name="forge.outbox.dropped",
        kind="observable_counter",
        unit="{record}",
        description="Records that a sink will never see, by reason.",
        attributes=(Attr.OUTBOX_SINK, Attr.REASON),
    )
    OUTBOX_WAITING: Final = Instrument(
        name="forge.outbox.waiting",
        kind="observable_gauge",
        unit="{record}",
        description="Records on local disk that a sink has not stored yet.",
        attributes=(Attr.OUTBOX_SINK,),
    )
    EXPORT_PRODUCED: Final = Instrument(
        name="forge.export.produced",
        kind="observable_counter",
        unit="{span}",
        description="Spans offered to the LangSmith bridge: those waiting and those settled.",
    )
    EXPORT_SETTLED: Final = Instrument(
        name="forge.export.settled",
        kind="observable_counter",
        unit="{span}",
        description="Spans that were exported, sampled_out or dropped, the last by reason.",
        attributes=(Attr.OUTCOME, Attr.REASON),
    )
    EXPORT_WAITING: Final = Instrument(
        name="forge.export.waiting",
        kind="observable_gauge",
        unit="{span}",
        description="Spans that LangSmith has not taken yet.",
    )
    PAGE_ADAPTED: Final = Instrument(
        name="forge.scrape.adapted",
        kind="observable_counter",
        unit="{metric}",
        description="Metrics that could not be shown on the page as they were recorded, by reason.",
        attributes=(Attr.REASON,),
    )
    BUILD_INFO: Final = Instrument(
        name="forge.build_info",
        kind="observable_gauge",
        unit="",
        description="1, with the versions as labels.",
        attributes=(Attr.VERSION,),
    )


CATALOG: Final[tuple[Instrument, ...]] = tuple(
    value for value in vars(Metric).values() if isinstance(value, Instrument)
)
"""Every instrument, in the order of their declaration."""
