"""The same runtime without HTTP: a worker that takes jobs and continues the trace of whoever sent them."""

import asyncio
from collections.abc import Mapping
from typing import Any

from forge_otel import Forge, GenerationRequest, GenerationResult, extract, generation, inject


@generation
async def generate(request: GenerationRequest) -> GenerationResult:
    """Run the pipeline; a real one would run its agents here."""
    return GenerationResult(code=f"export const tokens = {dict(request.tokens)!r};\n")


async def work(job: Mapping[str, Any]) -> GenerationResult:
    """Do one job; its trace is the sender's."""
    with extract(job["headers"]):
        return await generate(GenerationRequest(**job["request"]))


async def main() -> None:
    """Send one job to ourselves, as a web process would to a queue."""
    headers: dict[str, str] = {}
    async with Forge.from_env() as forge:
        with forge.span("enqueue"):
            inject(headers)
        job = {
            "headers": headers,
            "request": {"component_type": "button", "figma_key": "abc", "tokens": {"gap": "4px"}},
        }
        result = await work(job)
        print(result.source, result.trace_id, result.generation_id)


if __name__ == "__main__":
    asyncio.run(main())
