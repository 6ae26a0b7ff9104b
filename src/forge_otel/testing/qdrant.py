"""A stand-in for the part of Qdrant's HTTP API that `forge_otel.vector_stores.qdrant` uses.

It is an ASGI application with its points in memory. Search is exact. Every exchange is recorded, so that requests and
responses can be checked against the published API description. Index, persistence and cluster are not implemented.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

__all__ = ["Exchange", "QdrantStandIn"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its response.

    Args:
        path: path of the API description, with `{collection_name}`.
        body: JSON body of the request, or None.
        answer: JSON body of the response.
    """

    method: str
    path: str
    body: Any
    status: int
    answer: Any


@dataclass(slots=True)
class _Collection:
    size: int
    indexes: dict[str, Any] = field(default_factory=dict)
    points: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Refused(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class QdrantStandIn:
    """Qdrant's HTTP API over points in memory; `app` is the ASGI application.

    Args:
        api_key: required value of the header `api-key`; None requires none.
        max_exchanges: number of recorded exchanges.
    """

    def __init__(self, *, api_key: str | None = None, max_exchanges: int = 10_000) -> None:
        self.api_key = api_key
        self.exchanges: list[Exchange] = []
        self.collections: dict[str, _Collection] = {}
        self._max_exchanges = max_exchanges
        base = "/collections/{collection_name}"
        routes: Mapping[tuple[str, str], Callable[[str, Any], Any]] = {
            ("GET", f"{base}/exists"): lambda name, _: {"exists": name in self.collections},
            ("PUT", base): self._create,
            ("PUT", f"{base}/index"): self._index,
            ("PUT", f"{base}/points"): self._upsert,
            ("POST", f"{base}/points/delete"): self._delete,
            ("POST", f"{base}/points/query"): self._query,
        }
        self.app = Starlette(
            routes=[
                Route(path, self._endpoint(path, handle), methods=[method]) for (method, path), handle in routes.items()
            ]
        )

    def _endpoint(self, path: str, handle: Callable[[str, Any], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> JSONResponse:
            started = time.perf_counter()
            body = await request.json() if await request.body() else None
            content: dict[str, Any]
            try:
                self._authorize(request.headers.get("api-key"))
                status = 200
                content = {"status": "ok", "result": handle(request.path_params["collection_name"], body)}
            except _Refused as exc:
                status, content = exc.status, {"status": {"error": str(exc)}}
            content["time"] = time.perf_counter() - started
            if len(self.exchanges) < self._max_exchanges:
                self.exchanges.append(Exchange(request.method, path, body, status, content))
            return JSONResponse(content, status)

        return endpoint

    def _authorize(self, key: str | None) -> None:
        if self.api_key not in {None, key}:
            raise _Refused(401, "Must provide an API key or an Authorization bearer token")

    def _create(self, name: str, body: Any) -> bool:
        if name in self.collections:
            raise _Refused(409, f"Wrong input: Collection `{name}` already exists!")
        self.collections[name] = _Collection(body["vectors"]["size"])
        return True

    def _collection(self, name: str) -> _Collection:
        if name not in self.collections:
            raise _Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return self.collections[name]

    def _index(self, name: str, body: Any) -> dict[str, Any]:
        self._collection(name).indexes[body["field_name"]] = body["field_schema"]
        return _DONE

    def _upsert(self, name: str, body: Any) -> dict[str, Any]:
        collection = self._collection(name)
        for point in body["points"]:
            collection.points[point["id"]] = {**point, "vector": self._normalized(collection, point["vector"])}
        return _DONE

    def _delete(self, name: str, body: Any) -> dict[str, Any]:
        points = self._collection(name).points
        chosen = body.get("points") or [key for key, point in points.items() if _matches(point, body["filter"])]
        for key in chosen:
            points.pop(key, None)
        return _DONE

    def _query(self, name: str, body: Any) -> dict[str, Any]:
        collection = self._collection(name)
        query = body["query"]
        # The API accepts a bare vector as well as `{"nearest": vector}`.
        vector = self._normalized(collection, query["nearest"] if isinstance(query, dict) else query)
        found = [
            (math.fsum(a * b for a, b in zip(vector, point["vector"], strict=True)), point)
            for point in collection.points.values()
            if _matches(point, body.get("filter"))
        ]
        found.sort(key=lambda pair: -pair[0])
        return {
            "points": [
                {"id": point["id"], "version": 0, "score": score, "payload": point["payload"]}
                for score, point in found[: body.get("limit", 10)]
            ]
        }

    @staticmethod
    def _normalized(collection: _Collection, vector: Sequence[float]) -> list[float]:
        if len(vector) != collection.size:
            raise _Refused(
                400, f"Wrong input: Vector dimension error: expected dim: {collection.size}, got {len(vector)}"
            )
        # Qdrant normalizes the vectors of a cosine collection when it stores them.
        length = math.hypot(*vector) or 1.0
        return [value / length for value in vector]


_DONE: Final = {"operation_id": 0, "status": "completed"}


def _matches(point: Mapping[str, Any], query_filter: Mapping[str, Any] | None) -> bool:
    conditions = (query_filter or {}).get("must", ())
    return all(_meets_condition(point["payload"].get(condition["key"]), condition) for condition in conditions)


def _meets_condition(value: Any, condition: Mapping[str, Any]) -> bool:
    if condition.get("match") is not None:
        return bool(value == condition["match"]["value"])
    limits = condition["range"]
    tests = {"gt": value.__gt__, "gte": value.__ge__, "lt": value.__lt__, "lte": value.__le__}
    return all(test(limits[name]) for name, test in tests.items() if limits.get(name) is not None)
