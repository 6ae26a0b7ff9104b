"""The pattern cache replaces design tokens without a model call, and reuses the retrieved pattern."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.examples.conftest import FigmaSite
from tests.examples.samples import ATLAS, Sample, brief_for, code_for, samples, syntax_error

from componentforge.app import create_app
from componentforge.cache_hooks import HOOKS, is_well_formed, replace_tokens
from componentforge.serving import serve
from componentforge.settings import ServiceSettings
from componentforge.tokens import leaves
from componentforge.workload import load_workload
from forge_otel import Forge, Settings

BUTTON = {"component_type": "button", "figma_key": ATLAS, "node_id": "1:1"}
THEMES = load_workload().themes
MIDNIGHT = THEMES["midnight"]


@pytest.fixture
async def forge(tmp_path: Path) -> Forge:
    """A forge with the example's hooks, without archive and database."""
    return Forge(
        Settings(archive_url=None, database_url=None, outbox_dir=str(tmp_path / "outbox"), trace_spool_dir=None),
        hooks=HOOKS,
    )


@pytest.fixture
async def http(site: FigmaSite, llm_url: str, forge: Forge) -> AsyncIterator[httpx.AsyncClient]:
    """The service with stand-ins."""
    settings = ServiceSettings.from_env(
        {"FIGMA_TOKEN": "secret", "FIGMA_API_URL": site.url}, offline_url=f"{llm_url}/v1", figma_url=""
    )
    async with serve(create_app(settings, forge)) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


async def steps(forge: Forge, answer: dict[str, Any]) -> set[str]:
    """Wait for the record of a generation and return its agents and tools."""
    async with asyncio.timeout(10):
        while True:
            for record in forge.recent.records():
                if record.id == answer["generation_id"]:
                    return {step.name for step in record.steps}
            await asyncio.sleep(0.01)


async def generate(http: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    """Generate the button, with other fields in the body."""
    response = await http.post("/generate", json=BUTTON | change)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_other_tokens_need_no_model(http: httpx.AsyncClient, forge: Forge) -> None:
    """Other tokens give the artifacts of a full generation without retrieval, requirements and code generation."""
    await generate(http)
    rethemed = await generate(http, tokens=MIDNIGHT)
    assert (rethemed["source"], rethemed["cost_usd"]) == ("L3", "0")
    assert await steps(forge, rethemed) == {"token_extractor", "quality_validator"}
    await forge.exact.invalidate("all")
    generated = await generate(http, tokens=MIDNIGHT)
    assert generated["source"] == "L4"
    assert {**rethemed["artifacts"]} == {**generated["artifacts"]}


async def test_a_known_pattern_is_not_retrieved_again(http: httpx.AsyncClient, forge: Forge) -> None:
    """Other requirements for the same design and tokens are generated without the pattern retriever."""
    assert "pattern_retriever" in await steps(forge, await generate(http))
    reply = await generate(http, requirements={"states": ["loading"]})
    assert reply["source"] == "L4"
    ran = await steps(forge, reply)
    assert not ran & {"pattern_retriever", "bm25"}
    assert "code_generator" in ran


@pytest.mark.parametrize("found", samples(), ids=lambda found: found.name)
@pytest.mark.parametrize("theme", [name for name in THEMES if THEMES[name]])
def test_replaced_tokens_equal_generated_code(found: Sample, theme: str) -> None:
    """For every sample and theme, token replacement gives exactly the generated code, or None."""
    before, after = brief_for(found), brief_for(found, tokens=THEMES[theme])
    replaced = replace_tokens(code_for(before).component, before.css_variables, after.css_variables)
    if replaced is not None:
        assert replaced == code_for(after).component
        assert syntax_error(replaced) is None
    assert next(leaves(THEMES[theme]), None) is not None


@pytest.mark.parametrize("spoil", ["};", 'const x = "#000000"', "second"])
def test_unexpected_code_is_not_changed(spoil: str) -> None:
    """A missing or second object of tokens, or a token's colour elsewhere in the code, gives None."""
    found = next(one for one in samples() if one.name == "Badge/Status")
    brief = brief_for(found)
    code = code_for(brief).component
    changed = dict(brief.css_variables) | {"--color-text": "#000000"}
    assert replace_tokens(code, brief.css_variables, changed) is not None
    if spoil == "second":
        code += code
    elif spoil == "};":
        code = code.replace("} as CSSProperties;", spoil)
    else:
        code += f'const x = "{brief.css_variables["--color-text"]}";'
    assert replace_tokens(code, brief.css_variables, changed) is None


def test_is_well_formed() -> None:
    """Code with a syntax error is not well-formed."""
    assert is_well_formed("const a = <b>{1}</b>;")
    assert not is_well_formed("const a = {(};")
