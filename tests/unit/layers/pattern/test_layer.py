"""L3 hands what is known to the pipeline, re-themes what it can verify, and is made in advance on request."""

import io
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from forge_otel._runtime.pipeline import compose
from forge_otel.context import Generation, current_generation
from forge_otel.errors import BadRequest
from forge_otel.keys import digest, generation_key
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.layers.pattern.layer import PatternCacheLayer, PatternHooks
from forge_otel.layers.pattern.precompute import precompute
from forge_otel.stores.memory import MemoryStore
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Adapted, Call, Cost, GenerationRequest, GenerationResult, Layer, Reply

PRICE = Decimal("0.42")
TEMPLATE = GenerationRequest(component_type="button", figma_key="f", pattern_id="hero")


def fill(origin: GenerationResult, tokens: Mapping[str, Any], request: GenerationRequest) -> Adapted | None:
    """Fill a colour in where the origin has the one it was made with."""
    if f"<{tokens.get('color')}>" not in origin.code:
        return None
    code = origin.code.replace(f"<{tokens['color']}>", f"<{request.tokens['color']}>")
    return Adapted(pattern_id="", result=GenerationResult(code=code), is_complete=True)


LEARNING = PatternHooks(learn=lambda _request, result: {"code": result.code})
THEMING = PatternHooks(adapt=fill, verify=lambda adapted, _request: "broken" not in str(adapted.result))


class Caches:
    """L1 and L3 over a pipeline that spends money unless it is handed a pattern."""

    def __init__(self, hooks: PatternHooks, *, store: Any = None, **options: Any) -> None:
        self.exact = ExactCacheLayer(store or MemoryStore(), ExactCacheOptions(secret=b"s"), instruments=Instruments())
        self.layer = PatternCacheLayer(
            self.exact, **{"instruments": Instruments(), "pipeline_version": "1", "hooks": hooks} | options
        )
        layers: list[Layer] = [self.exact, self.layer]
        self._answer = compose(layers, self._run)
        self.patterns: list[Adapted | None] = []
        self.misses: dict[str, str] = {}

    async def ask(self, color: str = "red", **changes: Any) -> Reply:
        """Ask for the component in a colour."""
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
        result = GenerationResult(code=f"<{call.request.tokens.get('color')}> {dict(call.request.requirements)}")
        return Reply(result=result, cost_usd=generation.spent_usd, origin_id=generation.id)


async def _never() -> GenerationResult:
    raise AssertionError("the layer asks call_next, not the pipeline")


async def test_a_known_pattern_is_handed_to_the_pipeline() -> None:
    """The second request for a pattern and tokens finds what was learnt from the first."""
    caches = Caches(LEARNING)
    await caches.ask()
    assert caches.misses["L3"] == "cold"
    reply = await caches.ask(requirements={"other": True})
    assert caches.patterns[1] is not None
    assert caches.patterns[1].body == {"code": "<red> {}"}
    assert (reply.source, "L3" in caches.misses) == ("L4", False)
    assert caches.layer.stats()["hero"].hit_rate == 0.5


@pytest.mark.parametrize(
    "change", [{"color": "blue"}, {"tenant": "t"}, {"component_type": "card"}, {"pattern_id": "other"}]
)
async def test_another_pattern_is_not_handed_over(change: dict[str, Any]) -> None:
    """Other tokens, another tenant, type or pattern: the pipeline starts from nothing."""
    caches = Caches(LEARNING)
    await caches.ask()
    await caches.ask(requirements={"other": True}, **change)
    assert caches.patterns == [None, None]


async def test_without_a_pattern_id_there_is_no_pattern() -> None:
    """A request that names none is passed on; so is one whose hook fails."""
    caches = Caches(LEARNING)
    await caches.ask(pattern_id=None)
    assert caches.misses["L3"] == "no_pattern"
    failing = Caches(PatternHooks(identify=lambda request: str(1 / len(request.tokens.get("none", "")))))
    assert (await failing.ask()).source == "L4"


async def test_an_answer_that_a_pattern_only_helped_with_is_filled_in_too() -> None:
    """A wish on a known design is generated with the pattern's help, and then has its own tokens filled in."""
    caches = Caches(replace(THEMING, learn=lambda _request, result: {"code": result.code}))
    await caches.ask()
    wish = {"requirements": {"other": True}}
    helped = await caches.ask(**wish)
    assert caches.patterns[1] is not None
    themed = await caches.ask("blue", **wish)
    assert (helped.source, themed.source) == ("L4", "L3")
    assert themed.result.code == "<blue> {'other': True}"


async def test_other_tokens_are_filled_in() -> None:
    """The same request in another colour is answered without the pipeline, for what the first one cost."""
    caches = Caches(THEMING)
    await caches.ask("red")
    reply = await caches.ask("blue")
    assert (reply.source, reply.result.code, reply.saved_usd) == ("L3", "<blue> {}", PRICE)
    assert reply.origin_id == "g0"
    assert len(caches.patterns) == 1
    assert (await caches.ask("blue")).source == "L1"


@pytest.mark.parametrize(
    "change",
    [
        {"requirements": {"other": True}},
        {"content_hash": "2"},
        {"figma_key": "g"},
        {"tenant": "t"},
        {"component_type": "card"},
        {"pattern_id": "other"},
    ],
)
async def test_only_the_same_structure_is_filled(change: dict[str, Any]) -> None:
    """Whatever else than the tokens differs, it is another component."""
    caches = Caches(THEMING)
    await caches.ask("red")
    assert (await caches.ask("blue", **change)).source == "L4"


async def test_what_cannot_be_verified_is_a_miss() -> None:
    """A result that the verify hook refuses is never given, nor one that the adapt hook cannot make."""
    caches = Caches(THEMING)
    await caches.ask("red")
    assert (await caches.ask("broken")).source == "L4"
    assert caches.misses["L3"] == "retheme"


async def test_a_hook_that_fails_costs_the_hit_only() -> None:
    """An error in `adapt` or `learn` is a miss."""

    def fail(*_: Any) -> Any:
        raise RuntimeError

    caches = Caches(PatternHooks(adapt=fail, learn=fail))
    await caches.ask("red")
    assert (await caches.ask("blue")).source == "L4"
    assert caches.misses["L3"] == "retheme"


@pytest.mark.parametrize("tag", ["all", "type:button", "figma:f"])
async def test_what_invalidates_the_origin_invalidates_its_themes(tag: str) -> None:
    """An invalidated answer is no longer filled with other tokens."""
    caches = Caches(THEMING)
    await caches.ask("red")
    await caches.exact.invalidate(tag)
    assert (await caches.ask("blue")).source == "L4"


async def test_invalidating_the_origins_tokens_invalidates_what_is_made_of_it() -> None:
    """The tokens of the origin are a tag of what comes from it."""
    caches = Caches(THEMING)
    await caches.ask("red")
    await caches.exact.invalidate(f"tokens:{digest({'color': 'red'})}")
    assert (await caches.ask("blue")).source == "L4"
    assert caches.misses["L3"] == "epoch"


async def test_a_pipeline_that_only_finishes_the_pattern_is_a_hit() -> None:
    """Where the pattern holds an answer and the pipeline spends nothing on it, the pattern has answered."""

    def almost(origin: GenerationResult, tokens: Any, request: GenerationRequest) -> Adapted | None:
        adapted = fill(origin, tokens, request)
        return adapted and replace(adapted, is_complete=False)

    caches = Caches(PatternHooks(adapt=almost))
    await caches.ask("red")
    reply = await caches.ask("blue")
    assert (reply.source, reply.saved_usd, len(caches.patterns)) == ("L3", PRICE, 2)


async def test_patterns_are_made_in_advance() -> None:
    """Expectation first, then progress; what is there is not made again, and what fails is told."""
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


async def test_what_would_cost_more_than_it_brings_is_not_made() -> None:
    """Fewer than one hit in its life: nothing is spent unless that is wanted."""
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
