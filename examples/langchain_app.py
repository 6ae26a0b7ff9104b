"""A LangChain chain below our spans: its runs join the trace, and its model calls are priced and counted.

    pip install 'forge-otel[demo,langchain]'
    python examples/langchain_app.py

It asks the offline model of the demo, which costs nothing and has a price for show. Any OpenAI-compatible server can
take its place: set OPENAI_BASE_URL and OPENAI_API_KEY, and say the model's name as the first argument.
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
    """Return a prompt, a model and a parser, as LangChain composes them.

    Args:
        base_url: of an OpenAI-compatible server, up to ``/v1``.
        model: as the server knows it.
        api_key: for the server.
    """
    # A stream says its usage only where it is asked to.
    llm = ChatOpenAI(model=model, base_url=base_url, api_key=lambda: api_key, stream_usage=True, max_retries=0)
    return PROMPT | llm | StrOutputParser()


@agent("state_namer")
async def name_states(chain: Runnable[dict[str, str], str], component: str) -> str:
    """Ask the chain; it streams inside, and LangChain's runs are spans below this one."""
    return "".join([chunk async for chunk in chain.astream({"component": component})])


@generation
async def states(request: GenerationRequest, chain: Runnable[dict[str, str], str]) -> GenerationResult:
    """Name the states of a component; asked again, the cache answers."""
    return GenerationResult(code=await name_states(chain, request.component_type))


async def main() -> None:
    """Run the chain once, and print what it answered and cost."""
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
