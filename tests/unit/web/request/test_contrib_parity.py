"""The same attributes as `opentelemetry-instrumentation-fastapi`, except for the differences in docs/tracing.md."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
MISSING = "left out"

# Attributes in the table of differences of docs/tracing.md.
SPAN = {"client.port", "error.type", "http.response.body.size", "http.route", "server.address", "url.query"}
SAMPLE = {"error.type", "http.route", "network.protocol.version"}

PROGRAM = """
import asyncio, json, sys
from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from tests.unit.web.apps import NATIVE_OFF, fastapi_app, providers
from tests.unit.web.support import InMemoryForge, request
from forge_otel.web.middleware import ForgeMiddleware

REQUESTS = {
    "json": ("/items/42", {}),
    "query": ("/items/42?page=2&token=abc", {"headers": [("user-agent", "curl/8")]}),
    "post": ("/items/42", {"method": "POST"}),
    "unknown method": ("/items/42", {"method": "FOOBAR"}),
    "stream": ("/stream", {}),
    "error": ("/boom", {}),
    "404": ("/nothing/here", {}),
    "mounted": ("/sub/items/42", {}),
}

def recorded(forge):
    span = forge.server_span
    (point,) = forge.points("http.server.request.duration")
    return {
        "name": span.name, "kind": span.kind.name, "status": span.status.status_code.name,
        "attributes": dict(span.attributes), "events": [event.name for event in span.events],
        "sample": {key: value for key, value in point.attributes.items()}, "count": point.count,
    }

def build(who, forge):
    app = fastapi_app(NATIVE_OFF)
    app.mount("/sub", fastapi_app(NATIVE_OFF))
    if who == "ours":
        app.add_middleware(ForgeMiddleware, forge=forge)
    else:
        FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"], **providers(forge))
    return app

async def main():
    found = {}
    for name, (path, scope) in REQUESTS.items():
        found[name] = {}
        for who in ("ours", "contrib"):
            forge = InMemoryForge()
            await request(build(who, forge), path, **scope)
            found[name][who] = recorded(forge)
    print(json.dumps(found))

asyncio.run(main())
"""


REQUESTS = ["json", "query", "post", "unknown method", "stream", "error", "404", "mounted"]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """Return what both record for each request, in a process with contrib's opt-in to stable names."""

    async def run() -> bytes:
        environ = {"PYTHONPATH": ".", "OTEL_SEMCONV_STABILITY_OPT_IN": "http"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environ
        )
        return (await process.communicate())[0]

    found: dict[str, Any] = json.loads(asyncio.run(run()))
    return found


REQUESTS = ["json", "query", "post", "unknown method", "stream", "error", "404", "mounted"]


def differing(recorded: dict[str, Any], name: str, part: str) -> set[str]:
    """Return the attributes with different values."""
    ours, contrib = recorded[name]["ours"][part], recorded[name]["contrib"][part]
    return {key for key in ours | contrib if ours.get(key, MISSING) != contrib.get(key, MISSING)}


@pytest.mark.parametrize("name", REQUESTS)
def test_parity(recorded: dict[str, Any], name: str) -> None:
    """Span and sample agree in every attribute, except for the listed differences."""
    assert differing(recorded, name, "attributes") <= SPAN
    assert differing(recorded, name, "sample") <= SAMPLE
    ours, contrib = recorded[name]["ours"], recorded[name]["contrib"]
    for part in ("kind", "status", "events", "count"):
        assert ours[part] == contrib[part]
    assert ours["name"].startswith(contrib["name"])


def test_listed_differences_exist(recorded: dict[str, Any]) -> None:
    """A listed difference that no longer exists has to be removed from the list."""
    assert set().union(*(differing(recorded, name, "attributes") for name in REQUESTS)) == SPAN
    assert set().union(*(differing(recorded, name, "sample") for name in REQUESTS)) == SAMPLE


def test_the_page_explains_each_difference() -> None:
    """docs/tracing.md has a row with a reason for each difference."""
    page = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    assert {row[0].strip("`") for row in rows if row[1] != "sample"} >= SPAN
    assert {row[0].strip("`") for row in rows if row[1] != "span"} >= SAMPLE
    assert all(len(row) == 5 and row[4] for row in rows)
