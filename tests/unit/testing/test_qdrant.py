"""The Qdrant stand-in over HTTP."""

from collections.abc import AsyncIterator

import httpx
import pytest

from forge_otel.testing.qdrant import QdrantStandIn


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a stand-in with one collection of two dimensions and two points."""
    stand_in = QdrantStandIn(api_key="key")
    transport = httpx.ASGITransport(stand_in.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://q", headers={"api-key": "key"}) as http:
        await http.put("/collections/c", json={"vectors": {"size": 2, "distance": "Cosine"}})
        points = [
            {"id": "a", "vector": [1.0, 0.0], "payload": {"tenant": "x", "at": 1}},
            {"id": "b", "vector": [1.0, 1.0], "payload": {"tenant": "y", "at": 5}},
        ]
        await http.put("/collections/c/points", json={"points": points})
        yield http


async def search(client: httpx.AsyncClient, *must: dict[str, object]) -> list[str]:
    """Return the ids of the points that match all conditions, most similar to [1, 0] first."""
    body = {"query": [1.0, 0.0], "filter": {"must": list(must)}}
    response = await client.post("/collections/c/points/query", json=body)
    return [point["id"] for point in response.json()["result"]["points"]]


async def test_points_are_found_by_similarity_and_filter(client: httpx.AsyncClient) -> None:
    """`match` and `range` conditions are supported."""
    assert await search(client) == ["a", "b"]
    assert await search(client, {"key": "tenant", "match": {"value": "y"}}) == ["b"]
    assert await search(client, {"key": "at", "range": {"gte": 5}}) == ["b"]


async def test_errors_have_the_statuses_of_qdrant(client: httpx.AsyncClient) -> None:
    """A wrong key, a missing collection, an existing one and a wrong dimension are rejected."""
    wrong_size = {"points": [{"id": "c", "vector": [1.0], "payload": {}}]}
    statuses = [
        (await client.get("/collections/c/exists", headers={"api-key": "other"})).status_code,
        (await client.put("/collections/none/points", json={"points": []})).status_code,
        (await client.put("/collections/c", json={"vectors": {"size": 2}})).status_code,
        (await client.put("/collections/c/points", json=wrong_size)).status_code,
    ]
    assert statuses == [401, 404, 409, 400]
