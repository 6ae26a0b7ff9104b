"""Metrics of model calls and agents."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import AGENT_S, LLM_S, TOKEN_COUNTS, TOKEN_RATES, Instrument

__all__ = ["ModelMetrics"]


class ModelMetrics:
    """Instruments of model calls and agents."""

    COST: Final = Instrument(
        name="forge.genai.cost.usd",
        kind="counter",
        unit="{USD}",
        description="Cost of model calls.",
        attributes=(Attr.GEN_AI_PROVIDER, Attr.GEN_AI_REQUEST_MODEL, Attr.COMPONENT_TYPE),
    )
    UNPRICED: Final = Instrument(
        name="forge.genai.cost.unpriced",
        kind="counter",
        unit="{call}",
        description="Model calls without a known price.",
        attributes=(Attr.GEN_AI_REQUEST_MODEL,),
    )
    TOKENS: Final = Instrument(
        name="forge.genai.tokens",
        kind="counter",
        unit="{token}",
        description="Tokens of model calls, by disjoint types that add up to the billed tokens.",
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
        description="Input and output tokens of model calls.",
        attributes=(Attr.GEN_AI_OPERATION, Attr.GEN_AI_PROVIDER, Attr.GEN_AI_REQUEST_MODEL, Attr.GEN_AI_TOKEN_TYPE),
        bounds=TOKEN_COUNTS,
    )
    FIRST_CHUNK: Final = Instrument(
        name="gen_ai.client.operation.time_to_first_chunk",
        kind="histogram",
        unit="s",
        description="Time to the first chunk of a streamed response.",
        attributes=(Attr.GEN_AI_OPERATION, Attr.GEN_AI_PROVIDER, Attr.GEN_AI_REQUEST_MODEL),
        bounds=LLM_S,
    )
    TOKEN_RATE: Final = Instrument(
        name="forge.genai.output.rate",
        kind="histogram",
        unit="{token}/s",
        description="Output tokens per second, measured from the first chunk if its time is known.",
        attributes=(Attr.GEN_AI_REQUEST_MODEL,),
        bounds=TOKEN_RATES,
    )
    AGENT_DURATION: Final = Instrument(
        name="gen_ai.invoke_agent.duration",
        kind="histogram",
        unit="s",
        description="Duration of agents.",
        attributes=(Attr.GEN_AI_AGENT_NAME, Attr.SPAN_KIND, Attr.ERROR_TYPE),
        bounds=AGENT_S,
    )
    TOOL_DURATION: Final = Instrument(
        name="gen_ai.execute_tool.duration",
        kind="histogram",
        unit="s",
        description="Duration of tools.",
        attributes=(Attr.GEN_AI_TOOL_NAME, Attr.ERROR_TYPE),
        bounds=AGENT_S,
    )
    STEP_DURATION: Final = Instrument(
        name="forge.step.duration",
        kind="histogram",
        unit="s",
        description="Duration of steps.",
        attributes=(Attr.STEP_NAME, Attr.ERROR_TYPE),
        bounds=AGENT_S,
    )
