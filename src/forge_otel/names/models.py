"""Model calls: tokens, money and time, and the agents that make them."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import AGENT_S, LLM_S, TOKEN_COUNTS, TOKEN_RATES, Instrument

__all__ = ["ModelMetrics"]


class ModelMetrics:
    """Model calls: tokens, money and time, and the agents that make them."""

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
        bounds=LLM_S,
    )
    TOKEN_USAGE: Final = Instrument(
        name="gen_ai.client.token.usage",
        kind="histogram",
        unit="{token}",
        description="Tokens of model calls.",
        attributes=(Attr.GEN_AI_OPERATION, Attr.GEN_AI_PROVIDER, Attr.GEN_AI_REQUEST_MODEL, Attr.GEN_AI_TOKEN_TYPE),
        bounds=TOKEN_COUNTS,
    )
    FIRST_CHUNK: Final = Instrument(
        name="gen_ai.client.operation.time_to_first_chunk",
        kind="histogram",
        unit="s",
        description="Time to the first chunk of a streamed answer.",
        attributes=(Attr.GEN_AI_OPERATION, Attr.GEN_AI_PROVIDER, Attr.GEN_AI_REQUEST_MODEL),
        bounds=LLM_S,
    )
    TOKEN_RATE: Final = Instrument(
        name="forge.genai.output.rate",
        kind="histogram",
        unit="{token}/s",
        description="Tokens a model has written a second, from the first chunk on where that is known.",
        attributes=(Attr.GEN_AI_REQUEST_MODEL,),
        bounds=TOKEN_RATES,
    )
    AGENT_DURATION: Final = Instrument(
        name="gen_ai.invoke_agent.duration",
        kind="histogram",
        unit="s",
        description="Duration of agents, tools and steps.",
        attributes=(Attr.GEN_AI_AGENT_NAME, Attr.SPAN_KIND, Attr.ERROR_TYPE),
        bounds=AGENT_S,
    )
