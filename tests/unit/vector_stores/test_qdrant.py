"""The adapter of Qdrant: in the client's local mode, and over HTTP with every exchange held against the contract.

No real Qdrant server runs here; see docs/caching.md.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from qdrant_client.http.exceptions import UnexpectedResponse

from componentforge.serving import serve
from forge_otel.testing.qdrant import QdrantStandIn
from forge_otel.types import Point
from forge_otel.vector_stores.qdrant import QdrantStore, open_url

CONTRACT = json.loads(Path(__file__).with_name("data").joinpath("qdrant-openapi.json").read_text())
LATER = time.time() + 3600


@dataclass
class Site:
    """A stand-in that is served over HTTP."""

    server: QdrantStandIn
    url: str


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """Serve a stand-in; in the end every exchange must have been as the contract has it."""
    server = QdrantStandIn()
    async with serve(server.app) as url:
        yield Site(server, url.replace("http://", "qdrant://"))
    assert server.exchanges
    assert [fault for exchange in server.exchanges for fault in faults(exchange)] == []


@pytest.fixture(params=["local", "http"])
async def store(request: pytest.FixtureRequest, site: Site) -> AsyncIterator[QdrantStore]:
    """The store in local mode and over HTTP."""
    if request.param == "local":
        async with open_url(site.url) as unused:
            await unused.ping()
    async with open_url("qdrant://:memory:" if request.param == "local" else site.url) as store:
        yield store


def faults(exchange: Any) -> list[str]:
    """Say in what an exchange is not as the contract has it."""
    operation = CONTRACT["paths"].get(exchange.path, {}).get(exchange.method.lower())
    if operation is None:
        return [f"the contract has no {exchange.method} {exchange.path}"]
    found = []
    if exchange.body is not None:
        found += wrong(exchange.body, operation["requestBody"]["content"]["application/json"]["schema"])
    response = operation["responses"].get(str(exchange.status)) or operation["responses"].get("4XX")
    return found + wrong(exchange.answer, response["content"]["application/json"]["schema"])


def wrong(value: Any, schema: Any) -> list[str]:
    """Check a value against a schema of the contract (OpenAPI 3.0 has `nullable` next to the type)."""
    document = nullable({**schema, "components": CONTRACT["components"]})
    return [
        f"{error.json_path}: {error.message[:200]}" for error in jsonschema.Draft7Validator(document).iter_errors(value)
    ]


def nullable(schema: Any) -> Any:
    """Translate `nullable: true` to JSON Schema."""
    if isinstance(schema, list):
        return [nullable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: nullable(part) for name, part in schema.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


def point(number: int, *, scope: str = "s", vector: tuple[float, ...] = (1, 0, 0), expires_at: float = LATER) -> Point:
    return Point(id=f"{number:064x}"[::-1], scope=scope, facts=f"f{number}", vector=vector, expires_at=expires_at)


async def test_the_nearest_of_the_scope_are_found(store: QdrantStore) -> None:
    """In order, with similarity, key and facts; other scopes and expired points are excluded."""
    await store.put(point(1, vector=(1, 0, 0)))
    await store.put(point(2, vector=(1, 1, 0)))
    await store.put(point(3, scope="other"))
    await store.put(point(4, expires_at=time.time() - 1))
    found = await store.search("s", (1, 0, 0), limit=5)
    assert [(one.id, one.facts) for one in found] == [(point(1).id, "f1"), (point(2).id, "f2")]
    assert [one.similarity for one in found] == pytest.approx([1, 0.5**0.5])


async def test_without_a_collection_nothing_is_found(store: QdrantStore) -> None:
    """Before the first point, removing and sweeping change nothing."""
    assert await store.search("s", (1, 0, 0), limit=5) == []
    await store.remove([point(1).id])
    assert await store.sweep() == 0


async def test_points_are_replaced_removed_and_swept(store: QdrantStore) -> None:
    """Ids are unique, and a sweep deletes expired points."""
    await store.put(point(1))
    await store.put(point(1, vector=(0, 1, 0)))
    await store.put(point(2, expires_at=time.time() - 1))
    await store.sweep()
    (found,) = await store.search("s", (0, 1, 0), limit=5)
    assert found.similarity == pytest.approx(1)
    await store.remove([point(1).id])
    assert await store.search("s", (0, 1, 0), limit=5) == []


async def test_the_collection_has_its_indexes(site: Site) -> None:
    """It is created with the first point: cosine distance, and indexes of scope (as tenant) and expiry."""
    async with open_url(site.url) as store:
        await store.put(point(1))
        await store.put(point(2))
    made = site.server.collections["semantic_cache"]
    assert made.size == 3
    assert made.indexes == {"scope": {"type": "keyword", "is_tenant": True}, "expires_at": "float"}
    assert [exchange.path for exchange in site.server.exchanges].count("/collections/{collection_name}") == 1


async def test_two_workers_may_create_it_at_once(site: Site) -> None:
    """The second one uses the collection of the first."""
    async with open_url(site.url) as one, open_url(site.url) as other:
        await asyncio.gather(*(store.put(point(number)) for store in (one, other) for number in range(4)))
    assert len(site.server.collections["semantic_cache"].points) == 4


async def test_a_deleted_collection_is_created_again(site: Site) -> None:
    """By the next point."""
    async with open_url(site.url) as store:
        await store.put(point(1))
        site.server.collections.clear()
        await store.put(point(2))
        assert len(await store.search("s", (1, 0, 0), limit=5)) == 1


async def test_a_vector_of_another_model_is_rejected(site: Site) -> None:
    """A vector of another size is an error and changes nothing."""
    async with open_url(site.url) as store:
        await store.put(point(1))
        with pytest.raises(UnexpectedResponse, match="dimension"):
            await store.put(point(2, vector=(1, 0)))


async def test_the_key_is_sent(site: Site) -> None:
    """The server accepts the API key of the URL, and rejects another one."""
    site.server.api_key = "k"
    with pytest.warns(UserWarning, match="insecure connection"):
        right, wrong = (open_url(f"{site.url}?api_key={key}") for key in ("k", "wrong"))
    async with right as store:
        await store.put(point(1))
    async with wrong as store:
        with pytest.raises(UnexpectedResponse, match="401"):
            await store.search("s", (1, 0, 0), limit=1)


async def test_a_refused_connection_is_recognizable(unused_port: int) -> None:
    """The guard gets the connection's own error, not the client's wrapper."""
    async with open_url(f"qdrant://127.0.0.1:{unused_port}") as store:
        with pytest.raises(Exception, match=r"(?i)connect") as caught:
            await store.ping()
    assert "ConnectError" in type(caught.value).__name__


def test_the_schema_check_finds_faults() -> None:
    """The check of requests and responses can fail."""
    schema = CONTRACT["paths"]["/collections/{collection_name}/points/delete"]["post"]["requestBody"]
    assert wrong({"points": "all"}, schema["content"]["application/json"]["schema"])


@pytest.fixture
def unused_port() -> int:
    """A port without a listener."""

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
