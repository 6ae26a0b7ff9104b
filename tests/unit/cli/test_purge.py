"""`forge-otel purge` against a running service."""

import asyncio

import pytest

from forge_otel import Forge, GenerationRequest, GenerationResult, cli


async def run(*arguments: str) -> int:
    """Run the command in a thread, because the service runs on this event loop."""
    return await asyncio.to_thread(cli.main, ("purge", *arguments))


async def test_entries_are_counted_and_invalidated(
    service: tuple[Forge, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run counts the entries; the purge invalidates them."""
    forge, base_url = service

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        return GenerationResult(code="x")

    request = GenerationRequest(component_type="button", figma_key="f")
    assert (await generate(request)).source == "L4"
    assert await run("figma", "f", "--dry-run", "--url", base_url) == 0
    assert (await generate(request)).source == "L1"
    assert await run("figma", "f", "--url", base_url) == 0
    assert (await generate(request)).source == "L4"
    assert capsys.readouterr().out == "1 entries would be purged\n1 entries were purged\n"


@pytest.mark.parametrize(("arguments", "code"), [(("all", "x"), 2), (("figma",), 2), (("key", "short"), 1)])
async def test_a_wrong_value_is_an_error(service: tuple[Forge, str], arguments: tuple[str, ...], code: int) -> None:
    """`all` takes no value, every other property needs one, and a key is a whole key."""
    assert await run(*arguments, "--url", service[1]) == code
