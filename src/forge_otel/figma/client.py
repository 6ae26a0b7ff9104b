"""Client of the Figma REST API with a response cache (L0).

::

    async with FigmaClient.of(forge, token="figd_…") as figma:
        node = await figma.node("aT1as7DeSiGn2SyStEm9Qk", "1:2")

Nodes are read from the response for the whole file: all components of a file then cost one call of the scarcest rate
limit tier, which may allow as few as six a month. A file above the size limit is requested node by node.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, Self

from opentelemetry.trace import Tracer

from forge_otel._internal.bounded import BoundedMap
from forge_otel.errors import BadRequest, FetchInProgress, NotFound
from forge_otel.figma.cache_storage import FigmaCacheStorage
from forge_otel.figma.http import FigmaHttp
from forge_otel.figma.nodes import FigmaNode, find_node
from forge_otel.figma.request import Endpoint, FigmaRequest, parse_file_key, parse_node_ids
from forge_otel.figma.response import FigmaOptions, FigmaResponse
from forge_otel.figma.response_cache import LAYER, ResponseCache
from forge_otel.names import Attr, Metric
from forge_otel.resilience.guard import Guards, unguarded
from forge_otel.resilience.time_budget import budgeted
from forge_otel.settings import Settings
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.telemetry.providers import Telemetry
from forge_otel.types import Store

__all__ = ["FigmaClient", "FigmaRuntime"]

_NO_SECRET: Final = b"forge-otel: no cache_secret is set"
_API: Final = "https://api.figma.com"
# Searching a larger file would block the event loop for more than a few milliseconds.
_THREAD_ABOVE_BYTES: Final = 512 * 1024
_MAX_OVERSIZED: Final = 1000


class FigmaRuntime(Protocol):
    """The parts of a `Forge` that the client uses; this package must not import the Forge itself."""

    settings: Settings
    guards: Guards
    telemetry: Telemetry

    @property
    def store(self) -> Store:
        """Store of the cache entries."""
        ...

    @property
    def store_service(self) -> str | None:
        """Name of the guard for `store`; None for a store in this process."""
        ...


class FigmaClient:
    """Reads files, nodes, styles, images and metadata through the response cache.

    Args:
        http: sends requests; closed with the client.
        cache: serves responses.
        scope: digest of the token.
        tracer: creates spans.
        instruments: receive the metrics.
    """

    def __init__(
        self, http: FigmaHttp, *, cache: ResponseCache, scope: str, tracer: Tracer, instruments: Instruments
    ) -> None:
        self._http = http
        self._cache = cache
        self._scope = scope
        self._tracer = tracer
        self.instruments = instruments
        # Keys of the files that are too large to be read whole.
        self._oversized: BoundedMap[str, None] = BoundedMap(_MAX_OVERSIZED)

    @classmethod
    def of(
        cls,
        runtime: FigmaRuntime,
        *,
        token: str,
        base_url: str = _API,
        is_oauth: bool = False,
        options: FigmaOptions | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> Self:
        """Build a client on the store, guards and telemetry of a Forge; nothing is connected yet.

        Args:
            runtime: the Forge.
            token: a personal access token, or an OAuth token with `is_oauth`.
            base_url: URL of the API.
            is_oauth: whether the token is sent as a bearer token.
            options: TTLs and limits.
            clock_s: the wall clock, for tests.

        Raises:
            ConfigurationError: the token would be sent unencrypted, or is malformed.
            MissingExtra: httpx is not installed.
        """
        options = options or FigmaOptions()
        telemetry, guards, service = runtime.telemetry, runtime.guards, runtime.store_service
        http = FigmaHttp(
            base_url=base_url,
            token=token,
            is_oauth=is_oauth,
            max_response_bytes=options.max_response_bytes,
            tracer=telemetry.tracer,
        )
        storage = FigmaCacheStorage(
            runtime.store,
            secret=(runtime.settings.cache_secret or "").encode() or _NO_SECRET,
            guard=unguarded if service is None else budgeted(guards.get(service).call),
            local_bytes=0 if service is None else options.local_bytes,
        )
        return cls(
            http,
            cache=ResponseCache(storage, http.fetch, guards.get("figma"), options, clock_s),
            scope=hashlib.sha256(b"forge:figma:scope\0" + token.encode()).hexdigest(),
            tracer=telemetry.tracer,
            instruments=telemetry.instruments,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._cache.close()
        await self._http.close()

    async def node(self, file_key: str, node_id: str) -> FigmaNode:
        """Return one node with its subtree.

        Raises:
            NotFound: the file or the node does not exist.
            BadRequest: the key or the id is malformed.
            FetchInProgress: Figma takes longer than `wait_s`; ask again after `retry_after_s`.
            ServiceUnavailable: Figma is unavailable, and there is no cached copy.
        """
        file_key, node_id = parse_file_key(file_key), parse_node_ids([node_id])
        if file_key not in self._oversized:
            try:
                return await self._node_of_file(file_key, node_id)
            except _FileTooLarge:
                self._oversized[file_key] = None
        response = await self.nodes(file_key, [node_id])
        entry = response.body["nodes"].get(node_id)
        if entry is None:
            raise _node_not_found(file_key, node_id)
        styles = {style_id: style["name"] for style_id, style in entry["styles"].items()}
        return _node(file_key, node_id, response, entry["document"], styles)

    async def _node_of_file(self, file_key: str, node_id: str) -> FigmaNode:
        try:
            response = await self.file(file_key)
        except BadRequest as exc:
            # NotFound is a BadRequest too.
            raise exc if isinstance(exc, NotFound) else _FileTooLarge from exc
        if response.size_bytes > _THREAD_ABOVE_BYTES:
            found = await asyncio.to_thread(find_node, response.body, node_id)
        else:
            found = find_node(response.body, node_id)
        if found is None:
            raise _node_not_found(file_key, node_id)
        return _node(file_key, node_id, response, *found)

    async def file(
        self,
        file_key: str,
        *,
        ids: Sequence[str] = (),
        depth: int | None = None,
        version: str | None = None,
        geometry: Literal["paths"] | None = None,
        branch_data: bool = False,
        plugin_data: str | None = None,
    ) -> FigmaResponse:
        """Return `GET /v1/files/:key`.

        Args:
            file_key: key of a file or branch.
            ids: limits the response to these nodes, their ancestors and their subtrees.
            depth: number of levels of the tree.
            version: a version other than the current one; its response never changes.
            geometry: `paths` includes vector data.
            branch_data: whether the list of branches is included.
            plugin_data: ids of plugins whose data is included, or `shared`.

        Raises:
            NotFound, BadRequest, ServiceUnavailable: as `node`.
        """
        params = _params(ids=parse_node_ids(ids) if ids else None, depth=depth, version=version, geometry=geometry)
        return await self._get("file", file_key, params | _params(branch_data=branch_data, plugin_data=plugin_data))

    async def nodes(
        self,
        file_key: str,
        ids: Sequence[str],
        *,
        depth: int | None = None,
        version: str | None = None,
        geometry: Literal["paths"] | None = None,
        plugin_data: str | None = None,
    ) -> FigmaResponse:
        """Return `GET /v1/files/:key/nodes`; the arguments are those of `file`."""
        params = _params(
            ids=parse_node_ids(ids), depth=depth, version=version, geometry=geometry, plugin_data=plugin_data
        )
        return await self._get("nodes", file_key, params)

    async def styles(self, file_key: str) -> FigmaResponse:
        """Return `GET /v1/files/:key/styles`: the published styles of the file."""
        return await self._get("styles", file_key, {})

    async def images(
        self,
        file_key: str,
        ids: Sequence[str],
        *,
        format: Literal["jpg", "png", "svg", "pdf"] = "png",  # noqa: A002 - Figma's name
        scale: float | None = None,
        version: str | None = None,
    ) -> FigmaResponse:
        """Return `GET /v1/images/:key`: a URL for each node, valid for 30 days, or None without a rendering."""
        params = _params(ids=parse_node_ids(ids), format=format, scale=scale, version=version)
        return await self._get("images", file_key, params)

    async def meta(self, file_key: str) -> FigmaResponse:
        """Return `GET /v1/files/:key/meta`: name, version and last editor of the file."""
        return await self._get("meta", file_key, {})

    async def touch(self, file_key: str) -> None:
        """Check the file's version before the next response from the cache, in all workers."""
        await self._cache.touch(parse_file_key(file_key))

    async def invalidate(self, file_key: str) -> None:
        """Remove all responses for the file from the cache, in all workers.

        Raises:
            Exception: of the guard or the store; other workers were not reached.
        """
        await self._cache.drop(parse_file_key(file_key))

    async def _get(self, endpoint: Endpoint, file_key: str, params: Mapping[str, str]) -> FigmaResponse:
        request = FigmaRequest(
            endpoint=endpoint,
            file_key=parse_file_key(file_key),
            scope=self._scope,
            params=tuple(sorted(params.items())),
        )
        started = time.perf_counter()
        attributes = {Attr.CACHE_LAYER: LAYER, Attr.FIGMA_FILE: file_key}
        with self._tracer.start_as_current_span(f"figma {endpoint}", attributes=attributes) as span:
            result, reason = "error", ""
            try:
                response = await self._cache.get(request)
                result, reason = response.source, response.reason
                span.set_attribute(Attr.CACHE_AGE_S, response.age_s)
            except FetchInProgress:
                result = "pending"
                raise
            finally:
                span.set_attribute(Attr.CACHE_RESULT, result)
                if reason:
                    span.set_attribute(Attr.CACHE_MISS_REASON, reason)
                self._count(file_key, result, reason, time.perf_counter() - started)
        if response.source != "miss":
            self.instruments.add(Metric.FIGMA_SAVED, response.size_bytes, {Attr.FIGMA_FILE: file_key})
        return response

    def _count(self, file_key: str, result: str, reason: str, duration_s: float) -> None:
        layer_result = "hit" if result in {"hit", "revalidated", "stale"} else "miss" if result == "pending" else result
        layer = {Attr.CACHE_LAYER: LAYER, Attr.CACHE_RESULT: layer_result}
        self.instruments.add(Metric.CACHE_REQUESTS, 1, layer | ({Attr.CACHE_MISS_REASON: reason} if reason else {}))
        self.instruments.record(
            Metric.CACHE_DURATION, duration_s, {Attr.CACHE_LAYER: LAYER, Attr.CACHE_OPERATION: "get"}
        )
        # An invalid key would use up one of the few label values of the metric.
        labels = {} if result == "error" else {Attr.FIGMA_FILE: file_key}
        self.instruments.add(Metric.FIGMA_REQUESTS, 1, labels | {Attr.CACHE_RESULT: result})


class _FileTooLarge(Exception):
    """The response for the whole file is above the size limit."""


def _params(**params: str | float | bool | None) -> dict[str, str]:
    set_params = {name: value for name, value in params.items() if value is not None and value is not False}
    return {name: "true" if value is True else str(value) for name, value in set_params.items()}


def _node_not_found(file_key: str, node_id: str) -> NotFound:
    return NotFound(f"the Figma file {file_key!r} has no node {node_id!r}; open the file's link to see its nodes")


def _node(
    file_key: str, node_id: str, response: FigmaResponse, document: Mapping[str, Any], styles: Mapping[str, str]
) -> FigmaNode:
    return FigmaNode(
        file_key=file_key,
        node_id=node_id,
        version=response.body["version"],
        document=document,
        styles=styles,
        age_s=response.age_s,
        is_stale=response.source == "stale",
    )
