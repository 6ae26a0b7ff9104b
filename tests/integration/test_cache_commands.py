"""`forge-otel why` and `stats` read what a service has recorded."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from forge_otel import Forge, GenerationRequest, GenerationResult, Settings, cli
from forge_otel.context import current_generation
from forge_otel.types import Cost


async def _recorded(url: str) -> list[str]:
    """Ask three times, twice the same; return the generations' ids."""
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
    """A database with three generations, which the command finds."""
    url = f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    monkeypatch.setenv("FORGE_DATABASE_URL", url)
    return asyncio.run(_recorded(url))


def test_why_says_who_answered_and_what_was_asked_before(
    recorded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A cold miss, a hit that names its origin and its savings, and a miss that names what differs."""
    cold, hit, changed = recorded
    assert cli.main(["why", cold]) == 0
    assert "L1          missed: cold (nothing like it was asked before)" in capsys.readouterr().out
    assert cli.main(["why", hit]) == 0
    shown = capsys.readouterr().out
    assert "answered    by L1" in shown
    assert "saved 0.42" in shown
    assert f"origin      {cold}, made" in shown
    assert cli.main(["why", changed]) == 0
    assert "L1          missed: tokens (the design tokens differ" in capsys.readouterr().out


def test_stats_sum_up_what_the_caches_did(recorded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One of three was answered without the pipeline."""
    assert recorded
    assert cli.main(["stats"]) == 0
    shown = capsys.readouterr().out
    assert "3 generations, 1 of 3 answers without the pipeline (33.3%)" in shown
    assert "saved 0.42" in shown
    assert "missed     L1 tokens: 1" in shown
    assert "missed     L1 cold: 1" in shown


@pytest.mark.parametrize("arguments", [["why", "nothing"], ["why", "'; drop table generations; --"]])
def test_an_unknown_generation_is_said(recorded: list[str], arguments: list[str]) -> None:
    """It may not have been delivered yet."""
    assert recorded
    assert cli.main(arguments) == 1


def test_without_a_database_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking a file that is not there does not create it."""
    monkeypatch.setenv("FORGE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/none.db")
    assert (cli.main(["stats"]), cli.main(["why", "x"])) == (1, 1)
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["stats", "--days", "0"]) == 2
