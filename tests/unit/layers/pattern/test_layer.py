"""The pattern cache passes patterns to the pipeline and re-themes answers that it can verify."""

from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from tests.unit.layers.pattern.caches import LEARNING, PRICE, THEMING, Caches, fill

from forge_otel.keys import digest
from forge_otel.layers.pattern.layer import PatternHooks
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Adapted, GenerationRequest, GenerationResult


async def test_a_stored_pattern_is_passed_to_the_pipeline() -> None:
    """The second request finds what was learnt from the first."""
    caches = Caches(LEARNING)
    await caches.ask()
    assert caches.misses["L3"] == "cold"
    reply = await caches.ask(requirements={"other": True})
    assert caches.patterns[1] is not None
    assert caches.patterns[1].body == {"code": "<red> {}"}
    assert (reply.source, caches.misses["L3"]) == ("L4", "partial")
    assert caches.layer.stats()["hero"].hit_rate == 0.5


@pytest.mark.parametrize(
    "change", [{"color": "blue"}, {"tenant": "t"}, {"component_type": "card"}, {"pattern_id": "other"}]
)
async def test_a_pattern_is_not_shared(change: dict[str, Any]) -> None:
    """Other tokens, tenant, component type or pattern id: no pattern is passed."""
    caches = Caches(LEARNING)
    await caches.ask()
    await caches.ask(requirements={"other": True}, **change)
    assert caches.patterns == [None, None]


async def test_a_request_without_a_pattern_id_is_passed_on() -> None:
    """So is one whose `identify` hook fails."""
    caches = Caches(LEARNING)
    await caches.ask(pattern_id=None)
    assert caches.misses["L3"] == "no_pattern"
    failing = Caches(PatternHooks(identify=lambda request: str(1 / len(request.tokens.get("none", "")))))
    assert (await failing.ask()).source == "L4"


async def test_an_answer_made_with_a_pattern_can_be_rethemed() -> None:
    """It becomes the origin for other tokens."""
    caches = Caches(replace(THEMING, learn=lambda _request, result: {"code": result.code}))
    await caches.ask()
    wish = {"requirements": {"other": True}}
    helped = await caches.ask(**wish)
    assert caches.patterns[1] is not None
    themed = await caches.ask("blue", **wish)
    assert (helped.source, themed.source) == ("L4", "L3")
    assert themed.result.code == "<blue> {'other': True}"


async def test_other_tokens_are_filled_in() -> None:
    """The answer comes without the pipeline and saves the cost of the first."""
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
async def test_only_the_tokens_may_differ(change: dict[str, Any]) -> None:
    """Any other difference is a miss."""
    caches = Caches(THEMING)
    await caches.ask("red")
    assert (await caches.ask("blue", **change)).source == "L4"


async def test_an_unverified_result_is_a_miss() -> None:
    """It is never returned."""
    caches = Caches(THEMING)
    await caches.ask("red")
    assert (await caches.ask("broken")).source == "L4"
    assert caches.misses["L3"] == "retheme"


async def test_a_failing_hook_costs_only_the_hit() -> None:
    """An error in `adapt` or `learn` is a miss."""

    def fail(*_: Any) -> Any:
        raise RuntimeError

    caches = Caches(PatternHooks(adapt=fail, learn=fail))
    await caches.ask("red")
    assert (await caches.ask("blue")).source == "L4"
    assert caches.misses["L3"] == "retheme"


@pytest.mark.parametrize("tag", ["all", "type:button", "figma:f"])
async def test_invalidating_the_origin_prevents_retheming(tag: str) -> None:
    """An invalidated answer is not filled with other tokens."""
    caches = Caches(THEMING)
    await caches.ask("red")
    await caches.exact.invalidate(tag)
    assert (await caches.ask("blue")).source == "L4"


async def test_invalidating_the_tokens_of_the_origin_prevents_retheming() -> None:
    """They are a tag of everything derived from it."""
    caches = Caches(THEMING)
    await caches.ask("red")
    await caches.exact.invalidate(f"tokens:{digest({'color': 'red'})}")
    assert (await caches.ask("blue")).source == "L4"
    assert caches.misses["L3"] == "epoch"


async def test_a_pattern_that_only_helps_is_not_counted_as_a_hit() -> None:
    """The metric of lookups has as many hits as there are answers of the layer, also if the pipeline fails."""
    reader = InMemoryMetricReader()
    instruments = Instruments(MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))
    caches = Caches(LEARNING, instruments=instruments, price_with_pattern=None)
    await caches.ask()
    assert (await caches.ask(requirements={"other": True})).source == "L4"
    caches.fails = True
    with pytest.raises(RuntimeError):
        await caches.ask(requirements={"a third": True})
    data = reader.get_metrics_data()
    assert data is not None
    results = {
        (point.attributes[Attr.CACHE_RESULT], point.attributes[Attr.CACHE_MISS_REASON]): point.value
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == Metric.CACHE_REQUESTS.name
        for point in metric.data.data_points
    }
    assert results == {("miss", "cold"): 1, ("miss", "partial"): 2}


async def test_a_call_with_an_unknown_price_is_no_saving() -> None:
    """The pipeline called a model with the pattern: the answer is not that of the pattern."""
    hooks = PatternHooks(adapt=lambda *given: (found := fill(*given)) and replace(found, is_complete=False))
    caches = Caches(hooks, price_with_pattern=None)
    await caches.ask("red")
    reply = await caches.ask("blue")
    assert (reply.source, caches.misses["L3"]) == ("L4", "partial")


async def test_a_pipeline_that_spends_nothing_on_a_pattern_is_a_hit() -> None:
    """The pattern held the answer."""

    def almost(origin: GenerationResult, tokens: Any, request: GenerationRequest) -> Adapted | None:
        adapted = fill(origin, tokens, request)
        return adapted and replace(adapted, is_complete=False)

    caches = Caches(PatternHooks(adapt=almost))
    await caches.ask("red")
    reply = await caches.ask("blue")
    assert (reply.source, reply.saved_usd, len(caches.patterns)) == ("L3", PRICE, 2)
