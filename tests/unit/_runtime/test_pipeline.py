"""Composition of layers, and the decorator of pipelines."""

from typing import Any

import pytest

from forge_otel._runtime.pipeline import PipelineDecorator, compose
from forge_otel.types import Call, CallNext, GenerationRequest, GenerationResult, Reply

REQUEST = GenerationRequest(component_type="button", figma_key="f")


async def answer(request: GenerationRequest, *, text: str = "code") -> GenerationResult:
    """A pipeline."""
    return GenerationResult(code=text)


async def test_the_first_layer_is_the_outermost() -> None:
    """It sees the call first and the reply last."""
    order: list[str] = []

    def layer(name: str) -> Any:
        async def run(call: Call, call_next: CallNext, /) -> Reply:
            order.append(f"{name} in")
            reply = await call_next(call)
            order.append(f"{name} out")
            return reply

        return run

    async def terminal(call: Call) -> Reply:
        return Reply(result=await call.run())

    async def run() -> GenerationResult:
        return await answer(REQUEST)

    call = Call(request=REQUEST, pipeline="p", key="k", component_id="c", run=run)
    assert (await compose([layer("a"), layer("b")], terminal)(call)).result.code == "code"
    assert order == ["a in", "b in", "b out", "a out"]


async def test_a_pipeline_runs_alone_without_an_open_forge() -> None:
    """The decorated function keeps its name and arguments."""
    decorated = PipelineDecorator(lambda: None)(answer)
    assert (await decorated(REQUEST, text="x")).code == "x"
    assert decorated.__name__ == "answer"


async def test_an_open_forge_gets_the_request_and_the_name() -> None:
    """The forge decides whether the pipeline runs."""
    seen: list[tuple[GenerationRequest, str]] = []

    async def generate(request: GenerationRequest, run: Any, *, pipeline: str) -> GenerationResult:
        seen.append((request, pipeline))
        return await run()  # type: ignore[no-any-return]

    decorated = PipelineDecorator(lambda: generate)(name="named")(answer)
    assert (await decorated(REQUEST, text="x")).code == "x"
    assert seen == [(REQUEST, "named")]


def test_a_synchronous_function_is_rejected() -> None:
    """When it is decorated, not when it is called."""
    pipeline: Any = len
    with pytest.raises(TypeError, match="decorate an async function"):
        PipelineDecorator(lambda: None)(pipeline)
