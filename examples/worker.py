"""A worker without HTTP: it runs jobs from a queue, and each job continues the trace of its sender."""

import asyncio
from collections.abc import Mapping
from typing import Any

from forge_otel import Forge, GenerationRequest, GenerationResult, extract, generation, inject


@generation
async def generate(request: GenerationRequest) -> GenerationResult:
    """Run the pipeline; a real pipeline would call its agents here."""
    return GenerationResult(code=f"export const tokens = {dict(request.tokens)!r};\n")


async def process(job: Mapping[str, Any]) -> GenerationResult:
    """Process one job inside the trace context from its headers."""
    with extract(job["headers"]):
        return await generate(GenerationRequest(**job["request"]))


async def main() -> None:
    """Enqueue one job, as a web process would, and process it."""
    headers: dict[str, str] = {}
    async with Forge.from_env() as forge:
        with forge.span("enqueue"):
            inject(headers)
        job = {
            "headers": headers,
            "request": {"component_type": "button", "figma_key": "abc", "tokens": {"gap": "4px"}},
        }
        result = await process(job)
        print(result.source, result.trace_id, result.generation_id)


if __name__ == "__main__":
    asyncio.run(main())
