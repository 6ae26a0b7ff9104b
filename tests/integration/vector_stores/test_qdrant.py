"""Faults of Qdrant, injected by a proxy: callers are answered, and records name the fallback.

A stand-in behind a proxy, with the real client and guard. The fault matrix tests time limits.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from componentforge.serving import serve
from forge_otel import Forge, GenerationRequest, GenerationResult, Settings
from forge_otel.context import current_generation
from forge_otel.resilience.deadline import DeadlineOptions
from forge_otel.resilience.policies import defaults_for
from forge_otel.testing.faults.proxy import CutOff, FaultProxy, Garbage, HttpAnswer, Refuse, Reset, Silent
from forge_otel.testing.qdrant import QdrantStandIn

FAULTS = {
    "refused": Refuse(),
    "silent": Silent(),
    "reset": Reset(),
    "garbage": Garbage(),
    "auth error": HttpAnswer.unauthorized(),
    "full": HttpAnswer.too_many_requests(retry_after_s=30),
    "server error": HttpAnswer.server_error(),
    "nonsense": HttpAnswer.nonsense(),
    "cut off": CutOff(after_bytes=100),
}


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy in front of the stand-in."""
    async with serve(QdrantStandIn().app) as url, FaultProxy("127.0.0.1", int(url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
async def forge(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[Forge]:
    """A forge with its vectors behind the proxy, and a deadline that suits a busy machine."""
    settings = Settings(
        vector_url=proxy.url_for("qdrant://127.0.0.1:1"),
        archive_url=None,
        database_url=None,
        outbox_dir=str(tmp_path / "outbox"),
        trace_spool_dir=None,
    )
    policies = replace(defaults_for("qdrant"), deadline=DeadlineOptions(total_s=2))
    async with Forge(settings, policies={"qdrant": policies}) as forge:
        yield forge


async def ask(forge: Forge, note: str) -> tuple[GenerationResult, list[str]]:
    """Return the answer, and the fallbacks that served the generation."""
    degraded: list[str] = []

    async def run() -> GenerationResult:
        generation = current_generation.get()
        assert generation is not None
        degraded.extend(generation.degraded)
        return GenerationResult(code=note)

    request = GenerationRequest(component_type="button", figma_key="f", requirements={"note": note})
    return await forge.generate(request, run, pipeline="p"), degraded


async def test_similar_wording_is_found_without_a_fault(forge: Forge) -> None:
    """The second wording is a hit."""
    await ask(forge, "Show a spinner when loading")
    answer, _ = await ask(forge, "When loading, display a spinner")
    assert (answer.source, answer.code) == ("L2", "Show a spinner when loading")


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_qdrant_fails_no_call(forge: Forge, proxy: FaultProxy, name: str) -> None:
    """New wordings are generated, recent ones are found in memory, and Qdrant is used again afterwards."""
    await ask(forge, "Use a radius of 8px")
    fault: Any = FAULTS[name]
    async with proxy.fault(fault):
        known, _ = await ask(forge, "Apply a radius of 8 px")
        fresh, degraded = await ask(forge, "Announce the result")
        assert (known.source, known.code, fresh.source) == ("L2", "Use a radius of 8px", "L4")
        assert degraded == ["qdrant:lexical"]
    forge.operations.set_breaker("qdrant", "forced_closed")
    await ask(forge, "Keep the focus ring")
    assert (await ask(forge, "Retain the focus ring"))[0].source == "L2"
