"""A database with recorded generations for the commands that read it."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from forge_otel import Forge, GenerationRequest, GenerationResult, Settings
from forge_otel.context import current_generation
from forge_otel.types import Cost


async def _record(url: str) -> list[str]:
    """Run three generations, of which the second is a hit; return their ids."""
    forge = Forge(Settings(archive_url=None, database_url=url, outbox_dir=None))

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        generation = current_generation.get()
        assert generation is not None
        generation.record_cost(Cost(api="openai", amount_usd=Decimal("0.42")))
        return GenerationResult(code="x")

    async with forge:
        requests = [
            GenerationRequest(component_type="button", figma_key="f", tokens={"color": color})
            for color in ("#fff", "#FFFFFF", "#000")
        ]
        answers = [await generate(request) for request in requests]
        assert await forge.outbox.drain(timeout_s=10)
    return [answer.generation_id for answer in answers]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of three generations in the database of the environment: a cold miss, a hit, a miss by tokens."""
    url = f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    monkeypatch.setenv("FORGE_DATABASE_URL", url)
    return asyncio.run(_record(url))
