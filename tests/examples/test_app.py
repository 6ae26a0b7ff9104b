"""The service over HTTP: generation, cache, edits, progress and error responses."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.examples.conftest import FigmaSite
from tests.examples.samples import ATLAS, syntax_error

from componentforge.app import create_app
from componentforge.instrumentation import find_instrumentor
from componentforge.serving import serve
from componentforge.settings import ServiceSettings
from forge_otel import Forge, Settings

BUTTON = {"component_type": "button", "figma_key": ATLAS, "node_id": "1:1"}
AGENTS = ("token_extractor", "requirement_proposer", "pattern_retriever", "code_generator", "quality_validator")
PASSCODE = "a passcode of some length"
ARTIFACTS = {"component.tsx", "stories.tsx", "tokens.json", "requirements.json", "quality-report.html"}


@dataclass(frozen=True)
class Service:
    """A running service and its stand-in Figma."""

    http: httpx.AsyncClient
    site: FigmaSite
    forge: Forge

    async def generate(self, change: Mapping[str, Any] | None = None) -> httpx.Response:
        """Generate the button, with other fields in the body."""
        return await self.http.post("/generate", json=BUTTON | dict(change or {}))

    async def edit(self, node_id: str, *, text: str) -> None:
        """Edit the design and send Figma's webhook event."""
        self.site.figma.edit(ATLAS, node_id, text=text)
        await self.site.figma.announce(ATLAS, url=str(self.http.base_url.join("/figma/webhook")), passcode=PASSCODE)


@pytest.fixture
async def service(site: FigmaSite, llm_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    """Run the service with stand-ins and a forge that stores everything in a temporary folder."""
    settings = ServiceSettings.from_env(
        {"FIGMA_TOKEN": "secret", "FIGMA_API_URL": site.url, "FIGMA_WEBHOOK_PASSCODE": PASSCODE},
        offline_url=f"{llm_url}/v1",
        figma_url="",
    )
    forge = Forge(
        Settings(
            archive_url=f"file://{tmp_path / 'artifacts'}",
            database_url=f"sqlite+aiosqlite:///{tmp_path / 'forge.db'}",
            outbox_dir=str(tmp_path / "outbox"),
        )
    )
    async with serve(create_app(settings, forge)) as url, httpx.AsyncClient(base_url=url) as http:
        yield Service(http=http, site=site, forge=forge)


async def test_a_design_becomes_a_component(service: Service) -> None:
    """The response has five artifacts, valid code and its source."""
    response = await service.generate()
    answer = response.json()
    assert response.status_code == 200
    assert answer["source"] == "L4"
    assert set(answer["artifacts"]) == ARTIFACTS
    assert answer["code"] == answer["artifacts"]["component.tsx"]
    assert syntax_error(answer["code"]) is None
    assert syntax_error(answer["artifacts"]["stories.tsx"]) is None
    assert answer["metadata"]["model"] == "forge-offline-1"
    assert answer["metadata"]["quality_score"] == 100
    assert response.headers["x-trace-id"] == answer["trace_id"]
    assert Decimal(answer["saved_usd"]) == 0


async def test_an_equal_request_is_a_cache_hit(service: Service) -> None:
    """A repeated request is a hit, also for another user; other tokens or requirements are a miss."""
    first = (await service.generate()).json()
    again = (await service.generate({"user_id": "ada", "session_id": "s", "component_name": "Mine"})).json()
    assert (again["source"], again["artifacts"]) == ("L1", first["artifacts"])
    themed = (await service.generate({"tokens": {"color": {"background": "#0b1120"}}})).json()
    assert themed["source"] == "L4"
    assert '"--color-background": "#0b1120"' in themed["code"]
    wished = (await service.generate({"requirements": {"states": ["loading"]}})).json()
    assert wished["source"] == "L4"
    assert "aria-busy" in wished["code"]


async def test_an_edited_design_is_generated_again(service: Service) -> None:
    """An edit appears in the next response; an edit of another component in the file causes no miss."""
    await service.generate()
    await service.edit("1:40", text="Live")
    assert (await service.generate()).json()["source"] == "L1"
    await service.edit("1:1", text="Send it")
    edited = (await service.generate()).json()
    assert edited["source"] == "L4"
    assert '"Send it"' in edited["code"]


async def test_a_request_is_one_trace(service: Service) -> None:
    """Agent spans are children of the generation, and spans of model calls are children of their agents."""
    answer = (await service.generate()).json()
    rows = service.forge.telemetry.recent_traces.trace(answer["trace_id"])
    names = {row.span_id: row.name for row in rows}
    parents = {(row.name, names.get(row.parent_id)) for row in rows}
    generation = "invoke_workflow generate"
    assert {(f"invoke_agent {agent}", generation) for agent in AGENTS} <= parents
    assert ("execute_tool bm25", "invoke_agent pattern_retriever") in parents
    calls = sorted(parent or "" for name, parent in parents if name.startswith("chat "))
    expected = ["invoke_agent code_generator", "invoke_agent requirement_proposer"]
    assert calls == (expected if find_instrumentor() else [])


async def test_components_are_listed(service: Service) -> None:
    """Each listed component can be used in the body of a generation request."""
    components = (await service.http.get("/components")).json()
    assert len(components) == 16
    assert {"figma_key": ATLAS, "node_id": "1:1", "name": "Button/Action", "component_type": "button"} in components


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"component_type": "spaceship"}, 422, "component_type"),
        ({"figma_key": ""}, 422, "figma_key"),
        ({"node_id": 7}, 422, "node_id"),
        ({"surprise": 1}, 422, "surprise"),
        ({"tokens": []}, 422, "tokens"),
        ({"tokens": {"color": {"background": "blue-ish"}}}, 400, "color.background"),
        ({"component_id": "../../etc"}, 400, "component_id"),
        ({"figma_key": "unknown"}, 404, "unknown"),
        ({"figma_key": "../../v2"}, 400, "figma_key"),
        ({"node_id": "9:99"}, 404, "9:99"),
        ({"pattern_id": "no-such-pattern"}, 404, "no-such-pattern"),
    ],
)
async def test_an_invalid_request_is_a_problem(
    service: Service, change: dict[str, Any], status: int, words: str
) -> None:
    """An invalid request gets problem+json with the trace id, and the service continues."""
    response = await service.generate(change)
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert words in problem["detail"]
    assert problem["trace_id"] == response.headers["x-trace-id"]
    assert (await service.generate()).json()["source"] == "L4"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 422, "body"),
        (b'{"component_type"', 400, "not valid JSON"),
        (b"[]", 422, "body"),
        (b'{"component_type": "button"}', 422, "figma_key: Field required; node_id: Field required"),
        (
            b'{"component_type":"button","figma_key":"' + ATLAS.encode() + b'","node_id":"1:1","tokens":{"x":NaN}}',
            400,
            "NaN",
        ),
    ],
)
async def test_a_malformed_body_is_a_problem(service: Service, body: bytes, status: int, words: str) -> None:
    """Malformed JSON and non-JSON numbers are 400, missing fields are 422."""
    response = await service.http.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.json()["detail"]


async def test_progress_of_a_running_generation(service: Service) -> None:
    """A request with the same body streams all events of the agents, also shortly after the end."""
    generating = asyncio.create_task(service.generate())
    watched = await service.http.post("/generate/events", json=BUTTON)
    assert (await generating).status_code == 200
    again = await service.http.post("/generate/events", json=BUTTON)
    assert again.text == watched.text
    kinds = [line.removeprefix("event: ") for line in watched.text.splitlines() if line.startswith("event: ")]
    assert (kinds[0], kinds[-1], "model_call" in kinds) == ("started", "done", True)
    assert all(f'"{agent}"' in watched.text for agent in AGENTS)


async def test_progress_without_a_generation_is_not_found(service: Service) -> None:
    """Without a running generation the response is a 404 after a short wait."""
    answer = await service.http.post("/generate/events", json=BUTTON, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
