"""`forge-otel breakers` against a running service."""

import asyncio

import pytest

from forge_otel import Forge, cli


async def run(*arguments: str) -> int:
    """Run the command in a thread, because the service runs on this event loop."""
    return await asyncio.to_thread(cli.main, ("breakers", *arguments))


async def test_breakers_are_shown_and_set(service: tuple[Forge, str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command lists every breaker of a running service, and forces one."""
    forge, base_url = service
    assert await run("--url", base_url) == 0
    assert "openai               closed       auto                   1       0        0" in capsys.readouterr().out
    assert await run("openai", "--mode", "forced_open", "--url", base_url) == 0
    assert "forced_open" in capsys.readouterr().out
    assert [guard.mode for guard in forge.guards.states()] == ["forced_open"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("openai", "--mode", "sideways"), 1, "has no mode 'sideways'"),
        (("figma", "--mode", "auto"), 1, "no service called 'figma' is guarded"),
        (("openai",), 2, "give a breaker and its --mode together"),
    ],
)
async def test_an_invalid_mode_is_an_error(
    service: tuple[Forge, str],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    """Every error is one sentence and an exit code."""
    assert await run(*arguments, "--url", service[1]) == code
    assert sentence in capsys.readouterr().err
