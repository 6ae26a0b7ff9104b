"""Patterns are precomputed after an estimate, without repeating stored ones."""

import io
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.layers.pattern.caches import PRICE, TEMPLATE, Caches

from forge_otel.context import current_generation
from forge_otel.errors import BadRequest
from forge_otel.layers.pattern.layer import PatternHooks
from forge_otel.layers.pattern.precompute import precompute
from forge_otel.types import Adapted, Cost, GenerationResult


async def test_missing_patterns_are_made() -> None:
    """The estimate comes first, then the progress; stored patterns are skipped and failures reported."""
    caches, out, made = Caches(PatternHooks()), io.StringIO(), []

    async def make(pattern_id: str, tokens: Mapping[str, Any]) -> Adapted:
        assert "expected cost $1.26, expected net saving $2.52" in out.getvalue()
        made.append(tokens["color"])
        if tokens["color"] == "bad":
            raise ConnectionError
        generation = current_generation.get()
        assert generation is not None
        generation.record_cost(Cost(api="openai", amount_usd=PRICE))
        return Adapted(pattern_id=pattern_id, result=GenerationResult(code=tokens["color"]), is_complete=True)

    colors = [{"color": name} for name in ("red", "blue", "bad")]
    options: dict[str, Any] = {
        "template": TEMPLATE,
        "pipeline": "p",
        "cost_usd": PRICE,
        "expected_hits": 3,
        "out": out,
    }
    first = await precompute(caches.layer, "hero", colors, make, **options)
    assert (first.made, first.found, first.failed, first.spent_usd) == (2, 0, ["ConnectionError"], 2 * PRICE)
    assert "3/3  $0.84  1 failed" in out.getvalue()
    reply = await caches.ask("blue")
    assert (reply.source, reply.result.code, reply.saved_usd) == ("L3", "blue", PRICE)
    out.write("expected cost $1.26, expected net saving $2.52")
    again = await precompute(caches.layer, "hero", colors, make, **options)
    assert (again.found, made) == (2, ["red", "blue", "bad", "bad"])


async def test_nothing_is_made_at_a_loss() -> None:
    """Fewer than one expected hit: nothing is spent unless requested."""
    caches, out = Caches(PatternHooks()), io.StringIO()

    async def make(pattern_id: str, _tokens: Mapping[str, Any]) -> Adapted:
        return Adapted(pattern_id=pattern_id)

    options: dict[str, Any] = {"template": TEMPLATE, "pipeline": "p", "cost_usd": PRICE, "out": out}
    result = await precompute(caches.layer, "hero", [{}], make, expected_hits=0.5, **options)
    assert (result.made, result.skipped) == (0, 1)
    assert "nothing is made" in out.getvalue()
    result = await precompute(caches.layer, "hero", [{}], make, expected_hits=0.5, even_at_a_loss=True, **options)
    assert result.made == 1
    with pytest.raises(BadRequest, match="concurrency"):
        await precompute(caches.layer, "hero", [{}], make, expected_hits=1, concurrency=0, **options)
