"""The smallest service: one agent, one pipeline, one route and the middleware.

Run it with ``uvicorn quickstart:app`` and send this request twice; the second response comes from the cache:
``curl -X POST 'http://127.0.0.1:8000/generate?component_type=button&figma_key=abc'``
"""

from fastapi import FastAPI

from forge_otel import ForgeMiddleware, GenerationRequest, GenerationResult, agent, generation

app = FastAPI()
app.add_middleware(ForgeMiddleware)


@agent("code_generator")
async def write_code(component_type: str) -> str:
    """Return the component's code; a real agent would call a language model."""
    return f"export const {component_type.title()} = () => <{component_type} />;\n"


@generation
async def generate(request: GenerationRequest) -> GenerationResult:
    """Run the pipeline; a repeated request is answered from the cache."""
    code = await write_code(request.component_type)
    return GenerationResult(code=code, artifacts={"component.tsx": code})


@app.post("/generate")
async def create(component_type: str, figma_key: str) -> dict[str, str]:
    """Generate one component."""
    result = await generate(GenerationRequest(component_type=component_type, figma_key=figma_key))
    return {"code": result.code, "source": result.source, "trace_id": result.trace_id}
