"""A pattern cache inside an exact cache, over a pipeline with a known price."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from forge_otel._runtime.pipeline import compose
from forge_otel.context import Generation, current_generation
from forge_otel.keys import generation_key
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.layers.pattern.layer import PatternCacheLayer, PatternHooks
from forge_otel.stores.memory import MemoryStore
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Adapted, Call, Cost, GenerationRequest, GenerationResult, Layer, Reply

__all__ = ["LEARNING", "PRICE", "TEMPLATE", "THEMING", "Caches", "fill"]

PRICE = Decimal("0.42")
FREE = Decimal(0)
TEMPLATE = GenerationRequest(component_type="button", figma_key="f", pattern_id="hero")


def fill(origin: GenerationResult, tokens: Mapping[str, Any], request: GenerationRequest) -> Adapted | None:
    """Replace the colour of the origin; None if the origin has another one."""
    if f"<{tokens.get('color')}>" not in origin.code:
        return None
    code = origin.code.replace(f"<{tokens['color']}>", f"<{request.tokens['color']}>")
    return Adapted(pattern_id="", result=GenerationResult(code=code), is_complete=True)


LEARNING = PatternHooks(learn=lambda _request, result: {"code": result.code})
THEMING = PatternHooks(adapt=fill, verify=lambda adapted, _request: "broken" not in str(adapted.result))


class Caches:
    """L1 and L3 over a pipeline that costs money unless it gets a pattern."""

    def __init__(
        self, hooks: PatternHooks, *, store: Any = None, price_with_pattern: Decimal | None = FREE, **options: Any
    ) -> None:
        self.exact = ExactCacheLayer(store or MemoryStore(), ExactCacheOptions(secret=b"s"), instruments=Instruments())
        self.layer = PatternCacheLayer(
            self.exact, **{"instruments": Instruments(), "pipeline_version": "1", "hooks": hooks} | options
        )
        layers: list[Layer] = [self.exact, self.layer]
        self._price_with_pattern = price_with_pattern
        self.fails = False
        self._answer = compose(layers, self._run)
        self.patterns: list[Adapted | None] = []
        self.misses: dict[str, str] = {}

    async def ask(self, color: str = "red", **changes: Any) -> Reply:
        """Request the component in a colour."""
        request = replace(TEMPLATE, **{"tokens": {"color": color}} | changes)
        key = generation_key(request, pipeline="p", version="1")
        generation = Generation(id=f"g{len(self.patterns)}", started_at=datetime.now(UTC), started_s=0.0)
        token = current_generation.set(generation)
        try:
            return await self._answer(Call(request=request, pipeline="p", key=key, component_id="c", run=_never))
        finally:
            current_generation.reset(token)
            self.misses = generation.misses

    async def _run(self, call: Call) -> Reply:
        generation = current_generation.get()
        assert generation is not None
        self.patterns.append(call.pattern)
        if call.pattern is None:
            generation.record_cost(Cost(api="openai", amount_usd=PRICE))
        elif self._price_with_pattern != FREE:
            generation.record_cost(Cost(api="openai", amount_usd=self._price_with_pattern))
        if self.fails:
            raise RuntimeError("pipeline")
        result = GenerationResult(code=f"<{call.request.tokens.get('color')}> {dict(call.request.requirements)}")
        return Reply(result=result, cost_usd=generation.spent_usd, origin_id=generation.id)


async def _never() -> GenerationResult:
    raise AssertionError("the layer asks call_next, not the pipeline")
