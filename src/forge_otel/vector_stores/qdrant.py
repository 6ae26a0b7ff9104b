"""Vectors in Qdrant 1.10 or newer: `qdrant://host:6333`, for more points than one process should hold.

The collection (`semantic_cache`) and its payload indexes are made when the first point is kept. Qdrant has no life of
points: what is over is filtered out by its payload, and swept. The client tries nothing again and waits a second at
most, because the guard around the store owns retries and deadlines.

`qdrant://:memory:` is the client's local mode, for trying things out: it is slow, and one process has it alone. Its
calls block, so they are made in a thread.
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
# A little above the guard's own bound, so that the guard decides and the socket is only the net below it.
_TIMEOUT_S: Final = 1
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class QdrantStore:
    """Keeps points in a collection of Qdrant.

    Args:
        client: closed with the store.
        collection: its name; made on demand.
        clock: seconds since 1970.
    """

    def __init__(self, client: Any, *, collection: str = _COLLECTION, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._collection = collection
        self._clock = clock
        self._is_local = isinstance(client, QdrantClient)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forge-qdrant") if self._is_local else None
        self._is_made = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._ask("close")
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    async def search(self, scope: str, vector: Sequence[float], *, limit: int) -> list[Neighbour]:
        """Return the points of `scope` that are nearest to `vector`, nearest first."""
        try:
            found = await self._ask(
                "query_points",
                collection_name=self._collection,
                query=list(vector),
                query_filter=models.Filter(must=[_is("scope", scope), self._lives(after=True)]),
                limit=limit,
                with_payload=["id", "facts"],
            )
        except _Missing:
            return []
        return [
            Neighbour(id=str(point.payload["id"]), facts=str(point.payload["facts"]), similarity=point.score)
            for point in found.points
        ]

    async def put(self, point: Point, /) -> None:
        """Keep `point`, in place of one of the same id."""
        if not self._is_made:
            await self._make(len(point.vector))
        kept = models.PointStruct(
            id=_uuid(point.id),
            vector=list(point.vector),
            payload={"id": point.id, "scope": point.scope, "facts": point.facts, "expires_at": point.expires_at},
        )
        try:
            await self._ask("upsert", collection_name=self._collection, points=[kept], wait=True)
        except _Missing:
            # Somebody deleted the collection since.
            await self._make(len(point.vector))
            await self._ask("upsert", collection_name=self._collection, points=[kept], wait=True)

    async def remove(self, ids: Sequence[str], /) -> None:
        """Forget the points of these ids."""
        await self._delete(models.PointIdsList(points=[_uuid(point_id) for point_id in ids]))

    async def sweep(self) -> int:
        """Forget the points whose life is over; Qdrant does not say how many there were."""
        await self._delete(models.FilterSelector(filter=models.Filter(must=[self._lives(after=False)])))
        return 0

    async def ping(self) -> None:
        """Raise if the server does not answer."""
        await self._ask("collection_exists", collection_name=self._collection)

    async def _delete(self, selector: Any) -> None:
        try:
            await self._ask("delete", collection_name=self._collection, points_selector=selector, wait=True)
        except _Missing:
            return

    def _lives(self, *, after: bool) -> models.FieldCondition:
        now = self._clock()
        return models.FieldCondition(key="expires_at", range=models.Range(gt=now) if after else models.Range(lte=now))

    async def _make(self, dimensions: int) -> None:
        """Make the collection and its indexes, unless they are there; another worker may do so at the same moment."""
        name = self._collection
        if not await self._ask("collection_exists", collection_name=name):
            size = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
            try:
                await self._ask("create_collection", collection_name=name, vectors_config=size)
            except UnexpectedResponse as exc:
                if exc.status_code != _CONFLICT:
                    raise
        if not self._is_local:
            await self._index()
        self._is_made = True

    async def _index(self) -> None:
        # Asked for again it changes nothing, and a worker that died between the two leaves no collection without.
        name = self._collection
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        await self._ask("create_payload_index", collection_name=name, field_name="scope", field_schema=tenant)
        number = models.PayloadSchemaType.FLOAT
        await self._ask("create_payload_index", collection_name=name, field_name="expires_at", field_schema=number)

    async def _ask(self, method: str, **arguments: Any) -> Any:
        function = getattr(self._client, method)
        try:
            if self._thread is None:
                return await function(**arguments)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, lambda: function(**arguments))
        except UnexpectedResponse as exc:
            if exc.status_code == _NOT_FOUND:
                raise _Missing(self._collection) from exc
            raise
        except ResponseHandlingException as exc:
            # What the connection raised says what kind of failure it is: refused, silent, no JSON.
            raise exc.source from exc
        except ValueError as exc:
            if self._is_local and "not found" in str(exc):
                raise _Missing(self._collection) from exc
            raise


class _Missing(LookupError):
    """The collection is not there."""


def _is(key: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _uuid(point_id: str) -> str:
    # Qdrant's ids are numbers or UUIDs; a key is a SHA-256 in hex, of which half tells all keys apart.
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
        # It would ask the server while it is built, and block.
        check_compatibility=False,
    )
    return QdrantStore(client, collection=collection)
