"""`opentelemetry-instrumentation-fastapi` as the oracle: the same attributes for the same request.

Where we differ on purpose, docs/tracing.md says why; anything else fails.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
MISSING = "left out"

# Each row of docs/tracing.md's table of differences: attribute, and on what it differs.
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
    "made up": ("/items/42", {"method": "FOOBAR"}),
    "stream": ("/stream", {}),
    "error": ("/boom", {}),
    "404": ("/nothing/here", {}),
    "mounted": ("/sub/items/42", {}),
}

def told(forge):
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
        for who in ("ours", "oracle"):
            forge = InMemoryForge()
            await request(build(who, forge), path, **scope)
            found[name][who] = told(forge)
    print(json.dumps(found))

asyncio.run(main())
"""


REQUESTS = ["json", "query", "post", "made up", "stream", "error", "404", "mounted"]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What both say of each request; in a process of its own, where the oracle uses the stable names."""

    async def run() -> bytes:
        environ = {"PYTHONPATH": ".", "OTEL_SEMCONV_STABILITY_OPT_IN": "http"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environ
        )
        return (await process.communicate())[0]

    found: dict[str, Any] = json.loads(asyncio.run(run()))
    return found


REQUESTS = ["json", "query", "post", "made up", "stream", "error", "404", "mounted"]


def differing(told: dict[str, Any], name: str, part: str) -> set[str]:
    """Return the attributes of which the two do not say the same."""
    ours, oracle = told[name]["ours"][part], told[name]["oracle"][part]
    return {key for key in ours | oracle if ours.get(key, MISSING) != oracle.get(key, MISSING)}


@pytest.mark.parametrize("name", REQUESTS)
def test_both_say_the_same(told: dict[str, Any], name: str) -> None:
    """Span and sample, attribute by attribute, but for the differences that are listed."""
    assert differing(told, name, "attributes") <= SPAN
    assert differing(told, name, "sample") <= SAMPLE
    ours, oracle = told[name]["ours"], told[name]["oracle"]
    for part in ("kind", "status", "events", "count"):
        assert ours[part] == oracle[part]
    assert ours["name"].startswith(oracle["name"])


def test_each_listed_difference_is_one(told: dict[str, Any]) -> None:
    """What the oracle has come to say as we do is struck from the list."""
    assert set().union(*(differing(told, name, "attributes") for name in REQUESTS)) == SPAN
    assert set().union(*(differing(told, name, "sample") for name in REQUESTS)) == SAMPLE


def test_the_page_gives_a_reason_for_each() -> None:
    """One row a difference, each with its reason."""
    page = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    assert {row[0].strip("`") for row in rows if row[1] != "sample"} >= SPAN
    assert {row[0].strip("`") for row in rows if row[1] != "span"} >= SAMPLE
    assert all(len(row) == 5 and row[4] for row in rows)
