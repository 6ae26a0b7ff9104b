"""The runs of the example service in LangSmith: one tree for each generation."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from tests.examples.samples import ATLAS

from componentforge.app import create_app
from componentforge.figma_server import StandInFigma
from componentforge.offline_llm.server import create_offline_llm
from componentforge.serving import serve
from componentforge.settings import ServiceSettings
from forge_otel import Forge, Settings
from forge_otel.pricing import ModelPrice
from forge_otel.testing.langsmith.runs import LangSmithRun
from forge_otel.testing.langsmith.server import LangSmithStandIn

AGENTS = {"token_extractor", "requirement_proposer", "pattern_retriever", "code_generator", "quality_validator"}


@pytest.fixture
def langsmith(monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmithStandIn]:
    """A stand-in server that the `LANGSMITH_*` variables point to."""
    with LangSmithStandIn(api_key="key") as server:
        monkeypatch.setenv("LANGSMITH_API_KEY", "key")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.url)
        yield server


async def generate(folder: Path, headers: dict[str, str]) -> None:
    """Run the service with its stand-ins and generate one button."""
    figma = StandInFigma(tokens={"secret"})
    forge = Forge(
        Settings(
            archive_url=None,
            database_url=None,
            outbox_dir=str(folder / "outbox"),
            capture_content=True,
            prices={"forge-offline-1": ModelPrice(input_usd=Decimal("2.5"), output_usd=Decimal(10))},
        )
    )
    async with serve(figma.app) as figma_url, serve(create_offline_llm(time_scale=float("inf"))) as llm_url:
        settings = ServiceSettings.from_env(
            {"FIGMA_TOKEN": "secret", "FIGMA_API_URL": figma_url}, offline_url=f"{llm_url}/v1", figma_url=""
        )
        async with serve(create_app(settings, forge)) as url, httpx.AsyncClient(base_url=url, headers=headers) as http:
            body = {"component_type": "button", "figma_key": ATLAS, "node_id": "1:1"}
            assert (await http.post("/generate", json=body)).status_code == 200
            assert (await http.get("/livez")).status_code == 200


def ancestors(run: LangSmithRun, runs: list[LangSmithRun]) -> set[str]:
    """Return the names of the runs above `run`."""
    by_id = {item.id: item for item in runs}
    names = set()
    while run.parent_id:
        run = by_id[run.parent_id]
        names.add(run.name)
    return names


async def test_five_agents_are_one_tree_of_runs(langsmith: LangSmithStandIn, tmp_path: Path) -> None:
    """Behind a gateway that LangSmith never receives: one root, five agents, model calls with costs, one thread."""
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await generate(tmp_path, {"x-session-id": "s1", "x-user-id": "ada", "traceparent": traceparent})
    runs = langsmith.runs()
    assert len(langsmith.spans) == len(runs)
    (root,) = [run for run in runs if not run.parent_id]
    assert {(run.trace_id, run.thread, run.user) for run in runs} == {(root.trace_id, "s1", "ada")}
    agents = {run.name.removeprefix("invoke_agent "): run for run in runs if run.name.startswith("invoke_agent ")}
    assert set(agents) == AGENTS
    assert all(run.type == "chain" and run.inputs and run.outputs for run in agents.values())
    assert all(not run.error and run.end_ns >= run.start_ns >= root.start_ns for run in agents.values())
    # All agents are below one workflow of one request, and none is below another.
    assert {frozenset(ancestors(run, runs)) for run in agents.values()} == {
        frozenset({"invoke_workflow generate", root.name})
    }
    calls = [run for run in runs if run.type == "llm"]
    assert calls
    for call in calls:
        usage = call.usage
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
        cost_usd = usage["input_tokens"] * 2.5 + usage["output_tokens"] * 10
        assert usage["total_cost"] == pytest.approx(cost_usd / 1_000_000)
    callers = {next(iter(ancestors(run, runs) & {f"invoke_agent {name}" for name in AGENTS})) for run in calls}
    assert callers >= {"invoke_agent requirement_proposer", "invoke_agent code_generator"}
    assert all(ancestors(run, runs) & {f"invoke_agent {name}" for name in AGENTS} for run in calls)
    assert {run.type for run in runs if run.usage} == {"llm"}
