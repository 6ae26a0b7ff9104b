"""The operators' interface."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from forge_otel import Forge, GenerationRequest, GenerationResult
from forge_otel.errors import BadRequest, NotFound

REQUEST = GenerationRequest(component_type="button", figma_key="f")


async def _generate(forge: Forge) -> GenerationResult:
    async def run() -> GenerationResult:
        forge.record_usage(1000, 100, model="m", provider="p", cost_usd=Decimal("0.01"))
        return GenerationResult(code="code")

    return await forge.generate(REQUEST, run, pipeline="p")


async def test_without_a_database_the_figures_are_of_this_process(new_forge: Callable[..., Forge]) -> None:
    """They are JSON-ready, and `scope` is `process`."""
    async with new_forge() as forge:
        await _generate(forge)
        await _generate(forge)
        assert await forge.outbox.drain(timeout_s=10)
        figures = await forge.operations.summary()
    assert (figures["scope"], figures["by_source"], figures["hit_rate"]) == ("process", {"L4": 1, "L1": 1}, 0.5)
    assert (figures["cost_usd"], figures["saved_usd"], figures["errors"]) == ("0.01", "0.01", 0)
    assert figures["outbox"]["sinks"]["recent"]["delivered"] == 2
    json.dumps(figures)


async def test_an_open_breaker_of_a_critical_service_makes_the_runtime_unready(
    new_forge: Callable[..., Forge],
) -> None:
    """That of an optional service only warns."""
    async with new_forge(critical_services=("openai",)) as forge:
        operations = forge.operations
        for name in ("figma", "openai"):
            await forge.guard(name).call(asyncio.sleep, 0)
        assert operations.ready()
        operations.set_breaker("figma", "forced_open")
        assert (operations.ready(), operations.health_report()["status"]) == (True, "warn")
        operations.set_breaker("openai", "forced_open")
        assert (operations.ready(), operations.health_report()["status"]) == (False, "fail")
        operations.set_breaker("openai", "auto")
        operations.set_breaker("figma", "auto")
        assert (operations.ready(), operations.health_report()["status"]) == (True, "pass")
    assert not operations.ready()


async def test_a_critical_database_that_is_down_makes_the_runtime_unready(
    new_forge: Callable[..., Forge], tmp_path: Path
) -> None:
    """Its check has the name that `critical_services` uses."""
    (tmp_path / "occupied").write_text("a file where the folder should be")
    url = f"sqlite+aiosqlite:///{tmp_path}/occupied/forge.db"
    async with new_forge(database_url=url, critical_services=("database",)) as forge:
        async with asyncio.timeout(10):
            while "time" not in (check := forge.operations.health_report()["checks"]["database:responseTime"][0]):
                await asyncio.sleep(0.01)
        assert (check["critical"], check["status"]) == (True, "fail")
        assert (forge.operations.ready(), forge.operations.health_report()["status"]) == (False, "fail")


async def test_only_known_breakers_and_modes_can_be_set(new_forge: Callable[..., Forge]) -> None:
    """The errors name the alternatives."""
    forge = new_forge()
    await forge.guard("openai").call(asyncio.sleep, 0)
    with pytest.raises(NotFound, match="forge-otel breakers"):
        forge.operations.set_breaker("opnai", "auto")
    with pytest.raises(BadRequest, match="forced_open"):
        forge.operations.set_breaker("openai", "broken")
    forge.operations.set_breaker("openai", "shadow")
    modes = {breaker["name"]: breaker["mode"] for breaker in forge.operations.breakers()}
    assert modes == {"openai": "shadow", "flights": "auto"}


async def test_a_purge_invalidates_and_a_dry_run_only_counts(new_forge: Callable[..., Forge]) -> None:
    """After the purge the same request is generated again."""
    async with new_forge() as forge:
        await _generate(forge)
        counted = await forge.operations.purge("figma", "f", who="ada", is_dry_run=True)
        assert (counted["entries"], counted["is_dry_run"], (await _generate(forge)).source) == (1, True, "L1")
        assert (await forge.operations.purge("figma", "f", who="ada"))["entries"] == 1
        assert (await _generate(forge)).source == "L4"


async def test_a_report_needs_a_database(new_forge: Callable[..., Forge]) -> None:
    """The error says how to get one."""
    with pytest.raises(NotFound, match="FORGE_DATABASE_URL"):
        await new_forge().operations.report({})
