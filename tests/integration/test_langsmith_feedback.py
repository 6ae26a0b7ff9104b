"""Links to runs and scores on them, through the real client: beside the caller's way, whatever LangSmith does."""

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
from forge_otel.web.request.options import ResponseHeaders

ADMIN_TOKEN = "t" * 16
SENT = re.compile(r'^forge_feedback_settled_total\{[^}]*"sent"[^}]*\} 2', re.MULTILINE)


@pytest.fixture
def langsmith(monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmithStandIn]:
    """A LangSmith that the environment points to."""
    with LangSmithStandIn(api_key="key") as server:
        monkeypatch.setenv("LANGSMITH_API_KEY", "key")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.url)
        monkeypatch.setenv("LANGSMITH_PROJECT", "buttons")
        yield server


def settings(folder: Path, **more: Any) -> Settings:
    """Of a service that records in a database."""
    return Settings(
        archive_url=None,
        database_url=f"sqlite+aiosqlite:///{folder}/forge.db",
        outbox_dir=str(folder / "outbox"),
        trace_spool_dir=str(folder / "spool"),
        admin_token=ADMIN_TOKEN,
        **more,
    )


def create_app(forge: Forge) -> FastAPI:
    """A service whose answers are scored."""
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
    """A client of the running service."""
    async with serve(create_app(forge)) as url, httpx.AsyncClient(base_url=url) as http:
        yield http


async def test_a_generation_is_linked_and_scored(langsmith: LangSmithStandIn, tmp_path: Path) -> None:
    """The run's address is in the header, the dashboard's list and the record; its score is on that very run."""
    forge = Forge(settings(tmp_path))
    async with client(forge) as http:
        first = await http.post("/generate/0")
        assert "x-langsmith-run" not in first.headers
        await eventually(langsmith.runs)
        await eventually(lambda: langsmith.feedback)
        answer = await http.post("/generate/1")
        again = await http.post("/generate/1")
        await eventually(lambda: len(langsmith.feedback) == 2)
        url = answer.headers["x-langsmith-run"]
        listed = await http.get("/forge/api/generations", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
        urls = {item["id"]: item["langsmith_url"] for item in listed.json()}
        deadline_s = time.monotonic() + 10
        while not SENT.search((await http.get("/metrics")).text):
            assert time.monotonic() < deadline_s
    assert urls[answer.json()["id"]] == url != urls[again.json()["id"]]
    assert urls[first.json()["id"]] is None
    database = SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db")
    async with database, database.engine.connect() as rows:
        stored = dict((await rows.execute(text("SELECT id, langsmith_url FROM generations"))).all())  # type: ignore[arg-type]
    assert stored == urls
    runs = {run.id: run for run in langsmith.runs() if run.name == "invoke_workflow generate"}
    scored = [item["run_id"] for item in langsmith.feedback]
    generations = [runs[name.replace("-", "")[16:]].metadata["forge.generation.id"] for name in scored]
    assert generations == [first.json()["id"], answer.json()["id"]]
    assert scored[1] in url
    project = url.partition("/projects/p/")[2].partition("/")[0]
    assert {(item["key"], item["score"], item["session_id"]) for item in langsmith.feedback} == {
        ("quality_score", 0.75, project)
    }


async def test_all_is_imported_before_anything_is_served(langsmith: LangSmithStandIn, tmp_path: Path) -> None:
    """An import of half a second, on whatever thread, would hold up the first requests."""
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
    _, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()


@pytest.mark.parametrize(
    "fault",
    [LangSmithFault(kind="hang"), LangSmithFault(kind="reset"), LangSmithFault(status=503), LangSmithFault(status=401)],
)
async def test_langsmith_is_never_in_the_way(
    langsmith: LangSmithStandIn, tmp_path: Path, fault: LangSmithFault, caplog: pytest.LogCaptureFixture
) -> None:
    """Every path of its API fails: callers are answered as ever, and the end is in time; then scores arrive."""
    caplog.set_level(logging.INFO)
    langsmith.fail_everything(fault)
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


async def test_without_a_key_there_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No link, no score, no task, and everything else as ever."""
    caplog.set_level(logging.INFO)
    async with client(Forge(settings(tmp_path))) as http:
        answer = await http.post("/generate/0")
        assert (answer.status_code, "x-langsmith-run" in answer.headers) == (200, False)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "forge-langsmith"]
    assert sum("LangSmith" in record.getMessage() for record in caplog.records) == 1
