"""The main job over real HTTP: one trace per request, bad input, and stopping under load."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from componentforge.app import create_app
from componentforge.figma_server import StandInFigma
from componentforge.instrumentation import instrument_openai
from componentforge.llm import LanguageModel
from componentforge.offline_llm.server import create_offline_llm
from componentforge.pipeline import generate
from componentforge.schemas import COMPONENT_TYPES
from componentforge.serving import serve
from componentforge.settings import ServiceSettings
from componentforge.workload import load_workload
from forge_otel import Forge, ForgeMiddleware, GenerationRequest, Settings
from forge_otel.figma.client import FigmaClient
from forge_otel.telemetry.providers import Telemetry

WORKLOAD = load_workload()
BODY = WORKLOAD.body(next(WORKLOAD.requests()))
AGENTS = {"token_extractor", "requirement_proposer", "pattern_retriever", "code_generator", "quality_validator"}
STOP_WITHIN_S = 5.0


class Site:
    """A running service and what it records."""

    def __init__(self, tmp_path: Path) -> None:
        settings = Settings(
            archive_url=f"file://{tmp_path}/artifacts",
            database_url=f"sqlite+aiosqlite:///{tmp_path}/forge.db",
            outbox_dir=f"{tmp_path}/outbox",
            component_types=COMPONENT_TYPES,
        )
        self.exporter = InMemorySpanExporter()
        # The global providers, as in a service: FastAPI's own telemetry uses those, too.
        telemetry = Telemetry(settings, span_processors=[SimpleSpanProcessor(self.exporter)])
        self.forge = Forge(settings, telemetry=telemetry)
        self.client: httpx.AsyncClient

    @property
    def spans(self) -> dict[str, Any]:
        """The ended spans by name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}

    async def trace(self) -> dict[str, Any]:
        """Return the spans of the one request that was sent, once its server span has ended."""
        async with asyncio.timeout(10):
            while not any(span.kind is SpanKind.SERVER for span in self.spans.values()):
                await asyncio.sleep(0.01)
        return self.spans


def _starlette(settings: ServiceSettings, forge: Forge) -> Starlette:
    """The same pipeline behind plain Starlette."""

    async def post(request: Request) -> JSONResponse:
        body = await request.json()
        async with FigmaClient.of(forge, token="t", base_url=settings.figma_url) as figma:
            node = await figma.node(body["figma_key"], body.pop("node_id"))
        async with LanguageModel(settings) as llm:
            order = GenerationRequest(**body, content_hash=node.content_hash)
            result = await generate(order, node, llm)
        return JSONResponse({"source": result.source, "trace_id": result.trace_id})

    app = Starlette(routes=[Route("/generate", post, methods=["POST"])])
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


@asynccontextmanager
async def _running(tmp_path: Path, make_app: Any) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    assert instrument_openai()
    async with serve(StandInFigma().app) as figma_url, serve(create_offline_llm(time_scale=float("inf"))) as llm_url:
        settings = ServiceSettings.from_env({}, offline_url=f"{llm_url}/v1", figma_url=figma_url)
        async with (
            serve(make_app(settings, site.forge)) as base_url,
            httpx.AsyncClient(base_url=base_url, timeout=30) as site.client,
        ):
            yield site


@pytest.mark.parametrize("make_app", [create_app, _starlette], ids=["fastapi", "starlette"])
async def test_one_request_is_one_trace(tmp_path: Path, make_app: Any) -> None:
    """One server span, the generation below it, five agents below that, the model's calls below their agents."""
    async with _running(tmp_path, make_app) as site:
        answer = (await site.client.post("/generate", json=BODY)).raise_for_status()
        spans = await site.trace()
    servers = [span for span in site.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert [span.name for span in servers] == ["POST /generate"]
    assert {f"{span.context.trace_id:032x}" for span in site.exporter.get_finished_spans()} == {
        answer.json()["trace_id"]
    }
    by_id = {span.context.span_id: span for span in site.exporter.get_finished_spans()}

    def above(span: Any) -> list[str]:
        names = []
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            names.append(span.name)
        return names

    workflow = spans["invoke_workflow generate"]
    assert above(workflow)[-1] == "POST /generate"
    agents = {name.removeprefix("invoke_agent "): span for name, span in spans.items() if "invoke_agent" in name}
    assert set(agents) == AGENTS
    assert all(span.parent.span_id == workflow.context.span_id for span in agents.values())
    calls = [span for span in site.exporter.get_finished_spans() if span.name.startswith("chat ")]
    assert {above(call)[0] for call in calls} == {"invoke_agent requirement_proposer", "invoke_agent code_generator"}
    assert all(call.attributes["gen_ai.usage.output_tokens"] > 0 for call in calls)
    assert answer.headers["x-trace-id"] == answer.json()["trace_id"]


def _body(**changes: Any) -> dict[str, Any]:
    return {"json": BODY | changes}


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        ({"content": b'{"component_type": '}, 400, "not valid JSON"),
        ({"content": b"[1, 2]"}, 422, "the request is invalid"),
        ({"content": b"\xff\xfe\x00"}, 400, "error parsing the body"),
        (_body(component_type="rocket"), 422, "component_type"),
        (_body(figma_key=""), 422, "figma_key"),
        (_body(figma_key="unknown"), 404, "there is no Figma file"),
        (_body(node_id="99:99"), 404, "has no node"),
        (_body(component_id="../../etc/passwd"), 400, "component_id may hold"),
        (_body(tokens={"gap": 2**60}), 400, "larger than 2"),
        (_body(tokens={"gap": float("nan")}), 400, "NaN"),
        (_body(requirements={"note": "\ud800"}), 400, "surrogate"),
        ({"content": b" " * 50_000_000}, 413, "larger than"),
        ({"json": {}}, 422, "component_type"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_in_plain_words(
    tmp_path: Path, sent: dict[str, Any], status: int, sentence: str
) -> None:
    """The response is problem+json with the trace id; nothing is stored, and the service continues."""
    async with _running(tmp_path, create_app) as site:
        headers = {"content-type": "application/json"}
        if "json" in sent:
            # The standard library writes what httpx's encoder refuses, as a hostile client would.
            sent = {"content": _encode(sent["json"])}
        response = await site.client.post("/generate", headers=headers, **sent)
        problem = response.json()
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        assert problem["status"] == status
        assert sentence in problem["detail"]
        assert len(problem["trace_id"]) == 32
        assert "Traceback" not in response.text
        assert site.forge.outbox.stats().sinks["database"].produced == 0
        assert (await site.client.post("/generate", json=BODY)).status_code == 200
    assert [path.name for path in tmp_path.rglob("passwd")] == []


def _encode(body: Any) -> bytes:
    return json.dumps(body).encode()


@asynccontextmanager
async def _demo(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The shipped command in a folder of its own, and where it serves."""
    command = (sys.executable, "-m", "forge_otel.cli", "demo")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert line.startswith(b"ComponentForge is running at "), line
        yield process, line.decode().split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _load(base_url: str, answered: list[str], stop: asyncio.Event) -> None:
    """Send concurrent requests for new designs until stopped; record the answers."""

    async def ask(number: int) -> None:
        async with httpx.AsyncClient(base_url=base_url, timeout=30) as client:
            for turn in range(1_000):
                if stop.is_set():
                    return
                body = BODY | {"requirements": {"note": f"variant {number} {turn}"}}
                try:
                    response = await client.post("/generate", json=body)
                except httpx.HTTPError:
                    return
                if response.status_code == 200:
                    answered.append(response.json()["generation_id"])

    await asyncio.gather(*(ask(number) for number in range(6)))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "term", "kill"])
async def test_stopping_under_load_loses_no_answer(tmp_path: Path, how: signal.Signals) -> None:
    """After any signal, every answer is in the database once, with all artifacts."""
    answered: list[str] = []
    stop = asyncio.Event()
    async with _demo(tmp_path) as (process, base_url):
        load = asyncio.create_task(_load(base_url, answered, stop))
        async with asyncio.timeout(60):
            while len(answered) < 10:
                await asyncio.sleep(0.01)
        started = time.monotonic()
        os.kill(process.pid, how)
        await asyncio.wait_for(process.wait(), 30)
        took_s = time.monotonic() - started
        stop.set()
        await load
    (folder,) = (tmp_path / ".forge" / "demo").iterdir()
    await _drain(folder)
    assert took_s < STOP_WITHIN_S
    with closing(sqlite3.connect(folder / "forge.db")) as database:
        stored = [row[0] for row in database.execute("SELECT id FROM generations WHERE outcome = 'ok'")]
    assert set(answered) <= set(stored)
    assert len(stored) == len(set(stored))


async def _drain(folder: Path) -> None:
    """The next process delivers the records of a killed one."""
    settings = Settings(
        archive_url=f"file://{folder}/artifacts",
        database_url=f"sqlite+aiosqlite:///{folder}/forge.db",
        outbox_dir=f"{folder}/outbox",
    )
    async with Forge(settings) as forge:
        assert await forge.outbox.drain(timeout_s=20)


@pytest.mark.parametrize("runner", ["code", "uvicorn"])
async def test_wrong_settings_stop_the_start(tmp_path: Path, runner: str) -> None:
    """Every fault is listed without secrets, and the exit code is not 0."""
    (tmp_path / "service.py").write_text(
        "from fastapi import FastAPI\nfrom forge_otel import Forge, ForgeMiddleware\n"
        + ("Forge.from_env()\n" if runner == "code" else "")
        + "app = FastAPI()\napp.add_middleware(ForgeMiddleware)\n"
    )
    environ = os.environ | {
        "FORGE_CAHCE_URL": "memory://",
        "FORGE_ADMIN_TOKEN": "hunter2",
        "FORGE_MAX_BODY_BYTES": "many",
    }
    arguments = ("service.py",) if runner == "code" else ("-m", "uvicorn", "service:app", "--port", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=tmp_path,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await asyncio.wait_for(process.communicate(), 60))[0].decode()
    assert process.returncode != 0
    for fault in ("did you mean FORGE_CACHE_URL", "FORGE_MAX_BODY_BYTES", "admin_token has fewer"):
        assert fault in output
    assert "hunter2" not in output
