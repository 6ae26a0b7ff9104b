"""Names of span and metric attributes, and of GenAI operations.

The GenAI names are spelled here, because the constants of `opentelemetry-semantic-conventions` are deprecated; the HTTP
names follow the stable conventions (semconv 1.44).
"""

from typing import Final

__all__ = ["SCOPE", "Attr", "Operation"]

SCOPE: Final = "forge_otel"
"""The instrumentation scope of the library's spans and metrics."""


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
    STEP_NAME: Final = "forge.step.name"
    INPUT_SIZE: Final = "forge.input.size"
    OUTPUT_SIZE: Final = "forge.output.size"
    CHUNKS: Final = "forge.stream.chunks"
    FIRST_CHUNK_S: Final = "forge.stream.time_to_first_chunk"
    INPUT: Final = "forge.input"
    OUTPUT: Final = "forge.output"
    SAMPLING_REASON: Final = "forge.sampling.reason"
    # Caches
    CACHE_LAYER: Final = "cache.layer"
    CACHE_RESULT: Final = "cache.result"
    CACHE_OUTCOME: Final = "cache.outcome"
    CACHE_OPERATION: Final = "cache.operation"
    CACHE_MISS_REASON: Final = "cache.miss.reason"
    CACHE_SIMILARITY: Final = "cache.similarity"
    PATTERN_ID: Final = "forge.pattern.id"
    CACHE_STORE_SKIPPED: Final = "cache.store.skipped"
    FLIGHT_SCOPE: Final = "forge.flight.scope"
    CACHE_AGE_S: Final = "cache.age"
    FIGMA_FILE: Final = "forge.figma.file"
    FIGMA_EVENT: Final = "forge.figma.event"
    BUDGET_SCOPE: Final = "forge.budget.scope"
    # Identity
    USER_ID: Final = "user.id"
    SESSION_ID: Final = "session.id"
    TENANT: Final = "forge.tenant"
    # GenAI (repository semantic-conventions-genai)
    GEN_AI_OPERATION: Final = "gen_ai.operation.name"
    GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
    GEN_AI_SYSTEM: Final = "gen_ai.system"
    GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
    GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
    GEN_AI_FIRST_CHUNK_S: Final = "gen_ai.response.time_to_first_chunk"
    GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
    GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
    GEN_AI_WORKFLOW_NAME: Final = "gen_ai.workflow.name"
    GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
    GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
    GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
    GEN_AI_CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
    GEN_AI_CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
    GEN_AI_REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
    # The same counts under their former names, and under a proposed name that some instrumentations use.
    GEN_AI_INPUT_TOKENS_FORMER: Final = "gen_ai.usage.prompt_tokens"
    GEN_AI_OUTPUT_TOKENS_FORMER: Final = "gen_ai.usage.completion_tokens"
    GEN_AI_CACHE_READ_TOKENS_FORMER: Final = "gen_ai.usage.cache_read_input_tokens"
    GEN_AI_CACHE_WRITE_TOKENS_FORMER: Final = "gen_ai.usage.cache_creation_input_tokens"
    GEN_AI_CACHE_WRITE_TOKENS_COMING: Final = "gen_ai.usage.cache_write.input_tokens"
    GEN_AI_REASONING_TOKENS_FORMER: Final = "gen_ai.usage.reasoning_tokens"
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
    # Services, sinks and destinations
    BREAKER_NAME: Final = "forge.breaker.name"
    BREAKER_STATE: Final = "forge.breaker.state"
    FALLBACK: Final = "forge.fallback"
    BREAKER_FROM: Final = "from"
    BREAKER_TO: Final = "to"
    OUTBOX_SINK: Final = "forge.sink"
    DATABASE_TABLE: Final = "forge.table"
    DESTINATION: Final = "forge.destination"
    TASK_NAME: Final = "forge.task.name"
    REASON: Final = "reason"
    VERSION: Final = "version"


class Operation:
    """Values of `gen_ai.operation.name`."""

    INVOKE_WORKFLOW: Final = "invoke_workflow"
    INVOKE_AGENT: Final = "invoke_agent"
    EXECUTE_TOOL: Final = "execute_tool"
    CHAT: Final = "chat"
    TEXT_COMPLETION: Final = "text_completion"
    GENERATE_CONTENT: Final = "generate_content"
    EMBEDDINGS: Final = "embeddings"
    RETRIEVAL: Final = "retrieval"
