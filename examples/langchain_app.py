"""A LangChain chain inside an agent: its runs join the trace, and its model calls are priced and counted.

    pip install 'forge-otel[demo,langchain]'
    python examples/langchain_app.py

By default it calls the offline model of the demo, which is free; the price below is an example. To use an
OpenAI-compatible server, set OPENAI_BASE_URL and OPENAI_API_KEY and pass the model's name as the first argument.
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor

from componentforge.offline_llm.server import create_offline_llm
from componentforge.serving import serve
from forge_otel import Forge, GenerationRequest, GenerationResult, Settings, agent, generation
from forge_otel.pricing import ModelPrice

OFFLINE = "forge-offline-1"
PRICES = {OFFLINE: ModelPrice(input_usd=Decimal("2.5"), output_usd=Decimal(10))}
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "You name the states of user interface components."), ("human", "Which states has a {component}?")]
)


def make_chain(base_url: str, *, model: str = OFFLINE, api_key: str = "offline") -> Runnable[dict[str, str], str]:
    """Return a chain of prompt, model and output parser.

    Args:
        base_url: address of an OpenAI-compatible API, including ``/v1``.
        model: the model's name on that server.
        api_key: the server's API key.
    """
    # Without stream_usage a streamed response has no token counts, and so no cost.
    llm = ChatOpenAI(model=model, base_url=base_url, api_key=lambda: api_key, stream_usage=True, max_retries=0)
    return PROMPT | llm | StrOutputParser()


@agent("state_namer")
async def name_states(chain: Runnable[dict[str, str], str], component: str) -> str:
    """Run the chain and return its streamed text; LangChain's runs are child spans of this agent."""
    return "".join([chunk async for chunk in chain.astream({"component": component})])


@generation
async def states(request: GenerationRequest, chain: Runnable[dict[str, str], str]) -> GenerationResult:
    """Name the states of a component; a repeated request is answered from the cache."""
    return GenerationResult(code=await name_states(chain, request.component_type))


async def main() -> None:
    """Run the chain once and print its answer and cost."""
    LangChainInstrumentor().instrument()  # type: ignore[no-untyped-call]  # it has no annotations
    async with AsyncExitStack() as stack:
        base_url = os.environ.get("OPENAI_BASE_URL")
        if base_url is None:
            base_url = f"{await stack.enter_async_context(serve(create_offline_llm()))}/v1"
        model = sys.argv[1] if len(sys.argv) > 1 else OFFLINE
        chain = make_chain(base_url, model=model, api_key=os.environ.get("OPENAI_API_KEY", "offline"))
        settings = Settings.from_env(os.environ)
        await stack.enter_async_context(Forge(replace(settings, prices={**PRICES, **settings.prices})))
        result = await states(GenerationRequest(component_type="button", figma_key="demo"), chain)
        print(result.code)
        print(f"cost ${result.cost_usd}, trace {result.trace_id}")


if __name__ == "__main__":
    asyncio.run(main())
