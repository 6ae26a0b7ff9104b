"""The running generation collects what its record will contain; identity and trace travel with jobs."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN

from forge_otel.context import (
    Generation,
    Identity,
    RequestInfo,
    bind_identity,
    current_generation,
    current_request,
    extract,
    identity,
    inject,
    record_cache_status,
    record_degraded,
)
from forge_otel.types import Cost, Step

COST = Cost(api="openai", amount_usd=Decimal("0.42"))


@pytest.fixture
def request_info() -> Iterator[RequestInfo]:
    """The request that is being answered."""
    info = RequestInfo(span=INVALID_SPAN)
    token = current_request.set(info)
    yield info
    current_request.reset(token)


def _generation(name: str = "g") -> Generation:
    return Generation(id=name, started_at=datetime.now(UTC), started_s=0.0)


def test_costs_are_summed_and_reported() -> None:
    """An unknown cost is not part of the sum; every call and step is a progress event."""
    events: list[tuple[str, Any]] = []
    generation = _generation()
    generation.on_progress = lambda kind, facts: events.append((kind, facts))
    for cost in (COST, COST, Cost(api="openai", amount_usd=None)):
        generation.record_cost(cost)
    generation.record_step(Step(name="writer", kind="agent", started_s=0, duration_s=1))
    assert generation.spent_usd == Decimal("0.84")
    assert [kind for kind, _ in events] == ["model_call"] * 3 + ["step_ended"]
    assert [facts["cost_usd"] for _, facts in events[:3]] == ["0.42", "0.42", None]


def test_a_detached_generation_leaves_its_costs_to_the_copy() -> None:
    """The copy keeps id and costs; the original continues under another id without them."""
    generation = _generation("old")
    copy = generation.shared_copy()
    copy.record_cost(COST)
    generation.detach("new")
    copy.record_miss("L2", "cold")
    assert (copy.id, copy.spent_usd) == ("old", Decimal("0.42"))
    assert (generation.id, generation.spent_usd, generation.misses) == ("new", 0, {})


@pytest.mark.parametrize(
    ("source", "is_stored", "member"),
    [
        ("L1", False, "forge; hit; detail=L1"),
        ("L4", True, "forge; fwd=miss; stored"),
        ("L4", False, "forge; fwd=miss"),
        ("collapsed", False, "forge; fwd=miss; collapsed"),
    ],
)
def test_the_cache_status_names_the_layer(request_info: RequestInfo, source: str, is_stored: bool, member: str) -> None:
    """The ETag does not reveal the id of another caller's generation."""
    record_cache_status(source, is_stored=is_stored, origin_id="origin", age_s=61.7)
    assert request_info.cache_status == [member]
    ((etag, age_s),) = request_info.etags_and_ages
    assert (etag[:3], "origin" in etag, age_s) == ('W/"', False, 61)


def test_the_cache_status_is_bounded(request_info: RequestInfo) -> None:
    """A request with many generations lists ten of them."""
    for _ in range(50):
        record_cache_status("L1")
    assert len(request_info.cache_status) == 10


def test_a_fallback_is_recorded_once_on_the_innermost_scope(request_info: RequestInfo) -> None:
    """On the generation if one is running, otherwise on the request."""
    record_degraded("figma:stale")
    record_degraded("figma:stale")
    generation = _generation()
    token = current_generation.set(generation)
    record_degraded("redis:uncached")
    current_generation.reset(token)
    assert (request_info.degraded, generation.degraded) == (["figma:stale"], ["redis:uncached"])


async def test_identity_travels_to_threads_and_with_jobs() -> None:
    """After the block the previous identity is restored; over-long ids are ignored."""
    carrier: dict[str, str] = {}
    with bind_identity(Identity(user_id="ada", tenant="t")):
        assert await asyncio.to_thread(identity.get) == Identity(user_id="ada", tenant="t")
        inject(carrier)
    with extract(carrier | {"forge-session": "s" * 257}):
        assert identity.get() == Identity(user_id="ada", tenant="t")
    assert identity.get() == Identity()
