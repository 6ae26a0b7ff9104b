"""Purges count and log what they invalidate; dry runs change nothing."""

import logging
from typing import Any

import pytest

from forge_otel.errors import BadRequest
from forge_otel.keys import digest, generation_key
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.stores.memory import MemoryStore
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply


async def _never() -> GenerationResult:
    raise AssertionError


def _call(number: int = 0, **changes: Any) -> Call:
    fields: dict[str, Any] = {
        "component_type": "button",
        "figma_key": "f",
        "tenant": "t",
        "requirements": {"n": number},
    }
    request = GenerationRequest(**fields | changes)
    key = generation_key(request, pipeline="p", version="7")
    return Call(request=request, pipeline="p", key=key, component_id="c", run=_never)


async def _answer(call: Call) -> Reply:
    return Reply(result=GenerationResult(code="x"))


async def _filled(store: Any) -> ExactCacheLayer:
    exact = ExactCacheLayer(store, ExactCacheOptions(secret=b"s", pipeline_version="7"), instruments=Instruments())
    for number in range(3):
        await exact(_call(number), _answer)
    await exact(_call(component_type="card", figma_key="g", tenant="u", tokens={"a": 1}), _answer)
    return exact


@pytest.mark.parametrize(
    ("by", "value", "expected"),
    [
        ("figma", "f", 3),
        ("figma", "nothing", 0),
        ("tokens", digest({"a": 1}), 1),
        ("type", "button", 3),
        ("tenant", "u", 1),
        ("version", "7", 4),
        ("all", "", 4),
        ("key", _call(1).key, 1),
        ("key", "0" * 64, 0),
    ],
)
async def test_a_dry_run_counts_the_entries_that_the_purge_invalidates(by: str, value: str, expected: int) -> None:
    """Both counts are equal, and only the purge turns hits into misses."""
    exact = await _filled(MemoryStore())
    planned = await exact.purger.purge(by, value, who="me", is_dry_run=True)
    assert (planned.entries, planned.is_complete, planned.is_dry_run) == (expected, True, True)
    calls = [*map(_call, range(3)), _call(component_type="card", figma_key="g", tenant="u", tokens={"a": 1})]
    assert [(await exact(call, _answer)).source for call in calls] == ["L1"] * 4
    assert (await exact.purger.purge(by, value, who="me")).entries == expected
    assert [(await exact(call, _answer)).source for call in calls].count("L4") == expected


async def test_the_audit_log_names_operator_and_scope(caplog: pytest.LogCaptureFixture) -> None:
    """One structured line per purge, without line breaks from the caller."""
    exact = await _filled(MemoryStore())
    with caplog.at_level(logging.INFO, "forge_otel.audit"):
        await exact.purger.purge("figma", "f", who="anna\nroot")
    (line,) = caplog.records
    assert (line.__dict__["purge_who"], line.__dict__["purge_entries"]) == ("anna\nroot", 3)
    assert "by='figma' value='f' entries=3" in line.getMessage()
    assert "\n" not in line.getMessage()


async def test_a_count_stops_at_its_limit() -> None:
    """The result is marked as incomplete."""
    exact = await _filled(MemoryStore())
    exact.purger._max_scanned = 2
    found = await exact.purger.purge("all", who="me", is_dry_run=True)
    assert (found.entries, found.is_complete) == (4, False)


async def test_damaged_entries_are_not_counted() -> None:
    """They would be misses anyway."""
    store = MemoryStore()
    exact = await _filled(store)
    await store.set("forge:l1:" + _call(0).key, b"garbage")
    assert (await exact.purger.purge("figma", "f", who="me", is_dry_run=True)).entries == 2


@pytest.mark.parametrize(
    ("by", "value"),
    [("", ""), ("file", "x"), ("all", "x"), ("figma", ""), ("key", "short"), ("tokens", "A" * 64), ("type", "x" * 257)],
)
async def test_invalid_arguments_are_rejected(by: str, value: str) -> None:
    """Nothing is purged."""
    exact = await _filled(MemoryStore())
    with pytest.raises(BadRequest):
        await exact.purger.purge(by, value, who="me")
    assert (await exact(_call(0), _answer)).source == "L1"


async def test_a_purge_is_one_write() -> None:
    """It changes one key, however many entries are under the tag."""
    written: list[str] = []

    class Watched(MemoryStore):
        async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
            written.append(key)
            await super().set(key, value, ttl_s=ttl_s)

    exact = await _filled(Watched())
    written.clear()
    await exact.purger.purge("figma", "f", who="me", with_count=False)
    assert len(written) == 1
