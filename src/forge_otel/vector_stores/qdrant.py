"""Vectors in Qdrant 1.10 or newer: `qdrant://host:6333`, for more points than one process should hold.

The collection (`semantic_cache`) and its payload indexes are created with the first point. Qdrant has no TTL, so
expired points are filtered out by their payload, and swept. The client never retries and waits for one second at most,
because the guard around the store is responsible for retries and deadlines.

`qdrant://:memory:` is the client's local mode, for experiments: it is slow, and no other process shares it. Its calls
block, so they are made in a thread.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

from forge_otel.errors import needs
from forge_otel.types import Neighbour, Point

with needs("qdrant"):
    from qdrant_client import AsyncQdrantClient, QdrantClient, models
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

__all__ = ["QdrantStore", "open_url"]

_COLLECTION: Final = "semantic_cache"
# Slightly longer than the guard's own time limit, so that the guard acts first and the socket is only a safety net.
_TIMEOUT_S: Final = 1
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class QdrantStore:
    """Points in a collection of Qdrant.

    Args:
        client: closed with the store.
        collection: its name; created on demand.
        clock: seconds since 1970.
    """

    def __init__(self, client: Any, *, collection: str = _COLLECTION, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._collection = collection
        self._clock = clock
        self._is_local = isinstance(client, QdrantClient)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forge-qdrant") if self._is_local else None
        self._is_created = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._call("close")
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    async def search(self, scope: str, vector: Sequence[float], *, limit: int) -> list[Neighbour]:
        """Return the points of `scope` that are nearest to `vector`, nearest first."""
        try:
            found = await self._call(
                "query_points",
                collection_name=self._collection,
                query=list(vector),
                query_filter=models.Filter(must=[_is("scope", scope), self._expiry(is_over=False)]),
                limit=limit,
                with_payload=["id", "facts"],
            )
        except _CollectionNotFound:
            return []
        return [
            Neighbour(id=str(point.payload["id"]), facts=str(point.payload["facts"]), similarity=point.score)
            for point in found.points
        ]

    async def put(self, point: Point, /) -> None:
        """Store `point`, replacing a point of the same id."""
        if not self._is_created:
            await self._create(len(point.vector))
        stored = models.PointStruct(
            id=_uuid(point.id),
            vector=list(point.vector),
            payload={"id": point.id, "scope": point.scope, "facts": point.facts, "expires_at": point.expires_at},
        )
        try:
            await self._call("upsert", collection_name=self._collection, points=[stored], wait=True)
        except _CollectionNotFound:
            # The collection was deleted while this process was running.
            await self._create(len(point.vector))
            await self._call("upsert", collection_name=self._collection, points=[stored], wait=True)

    async def remove(self, ids: Sequence[str], /) -> None:
        """Delete the points of these ids."""
        await self._delete(models.PointIdsList(points=[_uuid(point_id) for point_id in ids]))

    async def sweep(self) -> int:
        """Delete expired points; return 0, because Qdrant does not report their number."""
        await self._delete(models.FilterSelector(filter=models.Filter(must=[self._expiry(is_over=True)])))
        return 0

    async def ping(self) -> None:
        """Raise unless the server responds."""
        await self._call("collection_exists", collection_name=self._collection)

    async def _delete(self, selector: Any) -> None:
        try:
            await self._call("delete", collection_name=self._collection, points_selector=selector, wait=True)
        except _CollectionNotFound:
            return

    def _expiry(self, *, is_over: bool) -> models.FieldCondition:
        now = self._clock()
        return models.FieldCondition(key="expires_at", range=models.Range(lte=now) if is_over else models.Range(gt=now))

    async def _create(self, dimensions: int) -> None:
        """Create the collection and its indexes unless they exist; another worker may do so at the same time."""
        name = self._collection
        if not await self._call("collection_exists", collection_name=name):
            size = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
            try:
                await self._call("create_collection", collection_name=name, vectors_config=size)
            except UnexpectedResponse as exc:
                if exc.status_code != _CONFLICT:
                    raise
        if not self._is_local:
            await self._index()
        self._is_created = True

    async def _index(self) -> None:
        # Idempotent, and done for an existing collection too: another worker may have died before it got here.
        name = self._collection
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        await self._call("create_payload_index", collection_name=name, field_name="scope", field_schema=tenant)
        number = models.PayloadSchemaType.FLOAT
        await self._call("create_payload_index", collection_name=name, field_name="expires_at", field_schema=number)

    async def _call(self, method: str, **arguments: Any) -> Any:
        function = getattr(self._client, method)
        try:
            if self._thread is None:
                return await function(**arguments)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, lambda: function(**arguments))
        except UnexpectedResponse as exc:
            if exc.status_code == _NOT_FOUND:
                raise _CollectionNotFound(self._collection) from exc
            raise
        except ResponseHandlingException as exc:
            # The guard classifies the original error: connection refused, timeout, invalid JSON.
            raise exc.source from exc
        except ValueError as exc:
            if self._is_local and "not found" in str(exc):
                raise _CollectionNotFound(self._collection) from exc
            raise


class _CollectionNotFound(LookupError):
    """The collection does not exist."""


def _is(key: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _uuid(point_id: str) -> str:
    # Qdrant's ids are integers or UUIDs; half of a SHA-256 is enough to be unique.
    return str(UUID(hex=point_id[:32]))


def open_url(url: str, **_: Any) -> QdrantStore:
    """Open `qdrant://host:6333`, with `?api_key=`, `?https=1` and `?collection=`, or `qdrant://:memory:`."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    collection = query.get("collection", _COLLECTION)
    if parts.netloc == ":memory:":
        return QdrantStore(QdrantClient(":memory:"), collection=collection)
    client = AsyncQdrantClient(
        host=parts.hostname or "localhost",
        port=parts.port or 6333,
        https=query.get("https") in {"1", "true"},
        api_key=query.get("api_key") or (unquote(parts.password) if parts.password else None),
        timeout=_TIMEOUT_S,
        # The check would send a blocking request in the constructor.
        check_compatibility=False,
    )
    return QdrantStore(client, collection=collection)
