"""The command, against real services and real files."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from starlette.applications import Starlette

from componentforge.serving import serve
from forge_otel import Forge, ForgeMiddleware, GenerationRequest, GenerationResult, Settings, cli

TOKEN = "a-token-of-the-tests"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[tuple[Forge, str]]:
    """A running service with one guard, and its address."""
    settings = Settings(archive_url=None, database_url=None, outbox_dir=None, admin_token=TOKEN)
    forge = Forge(settings)
    await forge.guard("openai").call(asyncio.sleep, 0)
    app = Starlette()
    app.add_middleware(ForgeMiddleware, forge=forge)
    async with serve(app) as base_url:
        yield forge, base_url


async def _run(*arguments: str) -> int:
    return await asyncio.to_thread(cli.main, arguments)


async def test_breakers_are_shown_and_set(
    service: tuple[Forge, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator sees every breaker of a running service and can force one."""
    forge, base_url = service
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", TOKEN)
    assert await _run("breakers", "--url", base_url) == 0
    assert "openai               closed       auto                   1       0        0" in capsys.readouterr().out
    assert await _run("breakers", "openai", "--mode", "forced_open", "--url", base_url) == 0
    assert "forced_open" in capsys.readouterr().out
    assert [guard.mode for guard in forge.guards.states()] == ["forced_open"]


async def test_the_cache_is_purged_from_outside(
    service: tuple[Forge, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run counts, the purge does it, and mistakes are refused."""
    forge, base_url = service
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", TOKEN)

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        return GenerationResult(code="x")

    request = GenerationRequest(component_type="button", figma_key="f")
    assert (await generate(request)).source == "L4"
    assert await _run("purge", "figma", "f", "--dry-run", "--url", base_url) == 0
    assert (await generate(request)).source == "L1"
    assert await _run("purge", "figma", "f", "--url", base_url) == 0
    assert (await generate(request)).source == "L4"
    assert capsys.readouterr().out == "1 entries would be purged\n1 entries were purged\n"
    assert await _run("purge", "all", "x", "--url", base_url) == 2
    assert await _run("purge", "key", "short", "--url", base_url) == 1


@pytest.mark.parametrize(
    ("arguments", "token", "code", "sentence"),
    [
        (("openai", "--mode", "sideways"), TOKEN, 1, "has no mode 'sideways'"),
        (("figma", "--mode", "auto"), TOKEN, 1, "nothing guards a service called 'figma'"),
        (("openai",), TOKEN, 2, "name a breaker and its --mode together"),
        ((), "wrong-token-of-the-tests", 1, ""),
        ((), "", 2, "FORGE_ADMIN_TOKEN is not set"),
    ],
)
async def test_what_cannot_be_set_is_said(
    service: tuple[Forge, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    token: str,
    code: int,
    sentence: str,
) -> None:
    """Every refusal is a plain sentence and an exit code."""
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", token)
    assert await _run("breakers", *arguments, "--url", service[1]) == code
    assert sentence in capsys.readouterr().err


async def test_a_service_that_is_away_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    """Nobody listens: a sentence, not a stack trace."""
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", TOKEN)
    assert await _run("breakers", "--url", f"http://127.0.0.1:{unused_tcp_port}") == 1
    assert "nothing answers at" in capsys.readouterr().err
    assert await _run("breakers", "--url", "file:///etc/passwd") == 2


async def test_migrate_makes_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The database of the environment is brought to the newest revision, and back."""
    monkeypatch.setenv("FORGE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/x.db")
    assert await _run("migrate") == 0
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"generations", "costs", "cache_stats"} <= tables
    assert await _run("migrate", "--revision", "base") == 0
    assert capsys.readouterr().out.endswith("is at revision base\n")
    monkeypatch.setenv("FORGE_DATABASE_URL", "")
    assert await _run("migrate") == 2


async def test_the_installed_command_is_this_one() -> None:
    """`forge-otel --help` lists the commands."""
    command = Path(sys.executable).with_name("forge-otel")
    process = await asyncio.create_subprocess_exec(command, "--help", stdout=asyncio.subprocess.PIPE)
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0
    assert all(name in output for name in ("demo", "migrate", "breakers"))
