"""Links to runs and scores through the real client, and their independence of requests while LangSmith fails."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from tests.unit.sinks.builders import eventually

from componentforge.serving import serve
from forge_otel import Forge, ForgeMiddleware, GenerationRequest, GenerationResult, Settings
from forge_otel.sinks.sql import SqlSink
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn
from forge_otel.web.request.response_headers import ResponseHeaders

ADMIN_TOKEN = "t" * 16
SENT = re.compile(r'^forge_feedback_settled_total\{[^}]*"sent"[^}]*\} 2', re.MULTILINE)


@pytest.fixture
def langsmith(monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmithStandIn]:
    """A stand-in server that the `LANGSMITH_*` variables point to."""
    with LangSmithStandIn(api_key="key") as server:
        monkeypatch.setenv("LANGSMITH_API_KEY", "key")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.url)
        monkeypatch.setenv("LANGSMITH_PROJECT", "buttons")
        yield server


def settings(folder: Path, **more: Any) -> Settings:
    """Return settings of a service with a database."""
    return Settings(
        archive_url=None,
        database_url=f"sqlite+aiosqlite:///{folder}/forge.db",
        outbox_dir=str(folder / "outbox"),
        trace_spool_dir=str(folder / "spool"),
        admin_token=ADMIN_TOKEN,
        **more,
    )


def create_app(forge: Forge) -> FastAPI:
    """Return a service whose generations have a quality score."""
    app = FastAPI()
    app.add_middleware(ForgeMiddleware, forge=forge, response_headers=ResponseHeaders(run_url="x-langsmith-run"))

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        return GenerationResult(code="<b/>", metadata={"quality_score": 0.75})

    @app.post("/generate/{note}")
    async def endpoint(note: str) -> dict[str, str]:
        request = GenerationRequest(
            component_type="button", figma_key="f", tokens={}, requirements={"note": note}, content_hash=note
        )
        return {"id": (await generate(request)).generation_id}

    return app


@asynccontextmanager
async def client(forge: Forge) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the application and yield a client of it."""
    async with serve(create_app(forge)) as url, httpx.AsyncClient(base_url=url) as http:
        yield http


async def test_a_generation_is_linked_and_scored(langsmith: LangSmithStandIn, tmp_path: Path) -> None:
    """The run's URL is in the header, the dashboard's list and the record, and the score is on the same run."""
    forge = Forge(settings(tmp_path))
    async with client(forge) as http:
        first = await http.post("/generate/0")
        assert "x-langsmith-run" not in first.headers
        await eventually(langsmith.runs)
        await eventually(lambda: langsmith.feedback)
        second = await http.post("/generate/1")
        repeated = await http.post("/generate/1")
        await eventually(lambda: len(langsmith.feedback) == 2)
        url = second.headers["x-langsmith-run"]
        listed = await http.get("/forge/api/generations", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
        urls = {item["id"]: item["langsmith_url"] for item in listed.json()}
        deadline_s = time.monotonic() + 10
        while not SENT.search((await http.get("/metrics")).text):
            assert time.monotonic() < deadline_s
    assert urls[second.json()["id"]] == url != urls[repeated.json()["id"]]
    assert urls[first.json()["id"]] is None
    database = SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db")
    async with database, database.engine.connect() as rows:
        stored = dict((await rows.execute(text("SELECT id, langsmith_url FROM generations"))).all())  # type: ignore[arg-type]
    assert stored == urls
    runs = {run.id: run for run in langsmith.runs() if run.name == "invoke_workflow generate"}
    scored = [item["run_id"] for item in langsmith.feedback]
    generations = [runs[name.replace("-", "")[16:]].metadata["forge.generation.id"] for name in scored]
    assert generations == [first.json()["id"], second.json()["id"]]
    assert scored[1] in url
    project = url.partition("/projects/p/")[2].partition("/")[0]
    assert {(item["key"], item["score"], item["session_id"]) for item in langsmith.feedback} == {
        ("quality_score", 0.75, project)
    }


async def test_the_client_is_imported_at_startup(langsmith: LangSmithStandIn, tmp_path: Path) -> None:
    """Its import takes half a second and would delay the first requests."""
    program = """
import asyncio, sys
from forge_otel import Forge
async def main():
    async with Forge.from_env():
        modules = set(sys.modules)
        assert "langsmith.client" in modules and "forge_otel.telemetry.langsmith.exporter" in modules
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()


@pytest.mark.parametrize(
    "fault",
    [LangSmithFault(kind="hang"), LangSmithFault(kind="reset"), LangSmithFault(status=503), LangSmithFault(status=401)],
)
async def test_an_outage_of_langsmith_delays_no_request(
    langsmith: LangSmithStandIn, tmp_path: Path, fault: LangSmithFault, caplog: pytest.LogCaptureFixture
) -> None:
    """While every endpoint fails, requests succeed and shutdown is in time; afterwards scores arrive."""
    caplog.set_level(logging.INFO)
    langsmith.fail_all(fault)
    chosen = settings(tmp_path, shutdown_timeout_s=3.0)
    async with client(Forge(chosen)) as http:
        for number in range(5):
            assert (await http.post(f"/generate/{number}")).status_code == 200
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 5.0
    langsmith.recover()
    async with client(Forge(chosen)) as http:
        assert (await http.post("/generate/more")).status_code == 200
        await eventually(lambda: langsmith.feedback)
    assert sum(run.name == "invoke_workflow generate" for run in langsmith.runs()) == 6
    assert "API Key" not in caplog.text


async def test_without_a_key_there_are_no_links_and_no_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is one log line and no background task, and requests succeed."""
    caplog.set_level(logging.INFO)
    async with client(Forge(settings(tmp_path))) as http:
        response = await http.post("/generate/0")
        assert (response.status_code, "x-langsmith-run" in response.headers) == (200, False)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "forge-langsmith"]
    assert sum("LangSmith" in record.getMessage() for record in caplog.records) == 1
