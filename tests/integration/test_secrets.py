"""Secrets planted in every part of a request: none of them is in any byte that LangSmith receives."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags
from tests.unit.web.apps import NATIVE_OFF

from forge_otel import Forge, ForgeMiddleware, Settings
from forge_otel.telemetry.providers import Telemetry
from forge_otel.testing.langsmith.server import LangSmithStandIn

PLANTED: dict[str, str] = {}
INNOCENT = "the button is round"


def plant(place: str) -> str:
    """Return a secret for one place, which identifies the origin of a leak."""
    return PLANTED.setdefault(place, f"Canary{len(PLANTED):03d}x7f3aQ9zKw2")


def marked(place: str, mark: str = "password={}") -> str:
    """Return a text with a recognizable secret."""
    return f"{INNOCENT}; {mark.format(plant(place))}"


def deep(value: Any, depth: int) -> Any:
    """Return `value` below so many dictionaries and lists."""
    return value if depth == 0 else {"below": [deep(value, depth - 1)]}


HEADERS: dict[str, Callable[[], str]] = {
    "authorization": lambda: f"Bearer {plant('header authorization')}",
    "cookie": lambda: f"sid={plant('header cookie')}; other={plant('second cookie')}",
    "x-api-key": lambda: plant("header x-api-key"),
    "x-forwarded-uri": lambda: f"https://a:{plant('header with a URL')}@host/",
    "user-agent": lambda: f"client/1 (token={plant('user agent')})",
    "referer": lambda: f"https://host/?access_token={plant('referer')}",
    "baggage": lambda: f"session.token={plant('baggage')},user={plant('second baggage')}",
    "tracestate": lambda: f"vendor={plant('tracestate').lower()}",
    "traceparent": lambda: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x-session-id": lambda: f"sk-{plant('session header')}",
}
QUERY = {
    "token": lambda: plant("query"),
    "next": lambda: f"https://user:{plant('URL in the query')}@host/",
    "filter": lambda: json.dumps({"client_secret": plant("JSON in the query")}),
    "sig": lambda: plant("signature in the query"),
}


def body() -> dict[str, Any]:
    """The request body."""
    return {
        "note": INNOCENT,
        "api_key": plant("body"),
        "camel": {"accessToken": plant("camel case key"), "refreshtoken": plant("run together key")},
        "deep": deep({"password": plant("nested key")}, 6),
        "very_deep": deep({"secret": plant("very nested key")}, 20),
        f"sk-{plant('key of a dictionary')}": 1,
        f"https://u:{plant('URL as a key')}@host": 1,
        "url": f"postgresql://forge:{plant('URL with credentials')}@db/forge",
        "json": json.dumps({"inner": json.dumps({"api_key": plant("JSON in JSON")})}),
        "headers": [["Authorization", plant("header as a pair")], ["x", INNOCENT]],
        "parameters": [{"name": "X-Api-Key", "value": plant("header as an object")}],
        "curl": f"curl -H 'Authorization: Bearer {plant('command line')}' https://host",
        "pem": f"-----BEGIN PRIVATE KEY-----\n{plant('private key')}\n-----END PRIVATE KEY-----",
        "github": f"ghp_{plant('token by its shape')}",
        "long": "x" * 15_990 + f" password={plant('behind a long text')}" + "y" * 9_000,
    }


def model_call(tracer: trace.Tracer) -> None:
    """A span as instrumentations of models write them, contents included, and errors too."""
    linked = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
    with tracer.start_as_current_span(
        marked("span name"), links=[Link(linked, {"password": plant("link")})], record_exception=False
    ) as span:
        span.set_attributes(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.input.messages": json.dumps([{"role": "user", "content": marked("prompt")}]),
                "gen_ai.output.messages": json.dumps([{"role": "assistant", "content": marked("completion")}]),
                "gen_ai.system_instructions": marked("system instructions"),
                "gen_ai.tool.definitions": marked("tool definitions"),
                "gen_ai.prompt.0.content": plant("flattened prompt"),
                "url.full": f"https://u:{plant('url.full')}@host/?key={plant('url.full query')}",
                "http.request.header.authorization": plant("header attribute"),
                "db.query.text": f"SELECT '{plant('db statement')}'",
                "langsmith.metadata.note": marked("LangSmith metadata"),
                "langsmith.span.tags": marked("LangSmith tags"),
                "langsmith.attachments": json.dumps([{"name": "x", "content": f"!{plant('attachment')}"}]),
                f"sk-{plant('attribute name')}": 1,
                "my_password": plant("attribute"),
                "list": [marked("list attribute")],
            }
        )
        span.add_event("gen_ai.user.message", {"content": marked("event attribute"), "token": plant("event key")})
        span.add_event("error", {"message": marked("error message in an event", "api_key: {}")})
        span.record_exception(ValueError(marked("foreign exception")))
        span.set_status(Status(StatusCode.ERROR, marked("status description")))


def create_app(forge: Forge) -> FastAPI:
    """A service whose agents are handed secrets, and fail with them."""
    # Its own telemetry would be on the global provider, where another test has made one.
    app = FastAPI(telemetry=NATIVE_OFF)
    app.add_middleware(ForgeMiddleware, forge=forge)

    @forge.tool
    async def lookup(query: str, options: dict[str, Any]) -> dict[str, Any]:
        return {"found": INNOCENT, "cookie": plant("tool result"), "text": marked("text of a tool result")}

    @forge.tool
    async def stream(count: int) -> AsyncIterator[dict[str, Any]]:
        for _ in range(count):
            yield {"chunk": marked("streamed item"), "secret": plant("streamed key")}

    @forge.tool
    def fail(url: str) -> None:
        cause = KeyError(marked("cause of an exception", "Authorization: Basic {}"))
        raise RuntimeError(f"cannot reach {url}: {marked('exception')}") from cause

    @forge.agent
    async def writer(headers: dict[str, str], content: dict[str, Any]) -> dict[str, Any]:
        await lookup(marked("tool argument"), {"credentials": plant("tool argument key")})
        async for _ in stream(2):
            pass
        try:
            fail(f"redis://:{plant('URL of an exception')}@cache/0")
        except RuntimeError:
            model_call(trace.get_tracer("model", tracer_provider=PROVIDERS[-1]))
        return {"answer": INNOCENT, "headers": headers, "content": content}

    @app.post("/write/{name}")
    async def work(name: str, request: Request) -> dict[str, str]:
        await writer(dict(request.headers), await request.json())
        raise LookupError(marked("exception of a request"))

    return app


PROVIDERS: list[TracerProvider] = []


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """Serve `app` over a real socket; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def langsmith(monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmithStandIn]:
    """A LangSmith that the environment points to."""
    with LangSmithStandIn(api_key="key") as server:
        monkeypatch.setenv("LANGSMITH_API_KEY", "key")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize("capture", [True, False], ids=["capture", "no-capture"])
async def test_no_planted_secret_reaches_langsmith(langsmith: LangSmithStandIn, capture: bool) -> None:
    """About sixty secrets are planted; the runs arrive with their harmless contents."""
    provider = TracerProvider(
        resource=Resource({"service.name": "s", "db.password": plant("resource")}), shutdown_on_exit=False
    )
    PROVIDERS.append(provider)
    settings = Settings(
        archive_url=None, database_url=None, outbox_dir=None, trace_spool_dir=None, capture_content=capture
    )
    forge = Forge(settings, telemetry=Telemetry(settings, tracer_provider=provider))
    async with serving(create_app(forge)) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.post(
            f"/write/sk-{plant('path')}",
            params={name: value() for name, value in QUERY.items()},
            headers={name: value() for name, value in HEADERS.items()},
            json=body(),
        )
        assert answer.status_code == 500
    provider.shutdown()
    runs = {run.name.removeprefix("invoke_agent ").removeprefix("execute_tool "): run for run in langsmith.runs()}
    assert {"POST /write/{name}", "writer", "lookup", "stream", "fail"} < runs.keys()
    assert len(PLANTED) > 55
    assert {place: secret for place, secret in PLANTED.items() if langsmith.has_received(secret)} == {}
    if capture:
        assert runs["writer"].inputs["content"]["note"] == INNOCENT
        assert INNOCENT in (runs["fail"].error or "")
    else:
        assert (runs["writer"].inputs, runs["fail"].error) == (None, "RuntimeError")
        # Captured, it would be a harmless header of the request.
        assert not langsmith.has_received(PLANTED["tracestate"].lower())
