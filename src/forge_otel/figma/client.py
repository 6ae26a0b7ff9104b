"""A client of the Figma REST API whose answers are kept (L0).

::

    async with FigmaClient.of(forge, token="figd_…") as figma:
        node = await figma.node("aT1as7DeSiGn2SyStEm9Qk", "1:2")

Nodes are read out of the whole file: all components of a file then cost one of the scarce calls, of which a seat may
have as few as six a month. A file that is too large for that is asked node by node.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, Self

from opentelemetry.trace import Tracer

from forge_otel.errors import BadRequest, NotFound
from forge_otel.figma.cache_storage import FigmaCacheStorage, unguarded
from forge_otel.figma.http import FigmaHttp
from forge_otel.figma.nodes import FigmaNode, node_in
from forge_otel.figma.request import FigmaRequest, What, file_key_of, ids_of
from forge_otel.figma.response import FigmaOptions, FigmaResponse
from forge_otel.figma.response_cache import LAYER, ResponseCache
from forge_otel.names import Attr, Metric
from forge_otel.resilience.guard import Guard
from forge_otel.resilience.time_budget import budgeted
from forge_otel.settings import Settings
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Store

__all__ = ["FigmaClient", "Runtime"]

_NO_SECRET: Final = b"forge-otel: no cache_secret is set"
_API: Final = "https://api.figma.com"
# Looking through more than this would hold the event loop for more than a few milliseconds.
_THREAD_ABOVE_BYTES: Final = 512 * 1024


_MAX_LARGE: Final = 1000


class _Components(Protocol):
    @property
    def store(self) -> Store: ...
    @property
    def store_service(self) -> str | None: ...


class _Telemetry(Protocol):
    @property
    def tracer(self) -> Tracer: ...
    @property
    def instruments(self) -> Instruments: ...


class Runtime(Protocol):
    """What the client needs to run in; a `Forge` has it."""

    @property
    def settings(self) -> Settings:
        """How it runs."""
        ...

    @property
    def components(self) -> _Components:
        """Where entries live."""
        ...

    @property
    def telemetry(self) -> _Telemetry:
        """Where spans and points go."""
        ...

    def guard(self, name: str, /) -> Guard:
        """Return the guard of a service."""
        ...


class FigmaClient:
    """The client.

    Args:
        transport: sends requests; closed with the client.
        cache: answers them.
        scope: digest of the token.
        tracer, instruments: where spans and points go.
    """

    def __init__(
        self, transport: FigmaHttp, *, cache: ResponseCache, scope: str, tracer: Tracer, instruments: Instruments
    ) -> None:
        self._transport = transport
        self._cache = cache
        self._scope = scope
        self._tracer = tracer
        self.instruments = instruments
        # Files that are too large to be read whole, by key.
        self._large: dict[str, None] = {}

    @classmethod
    def of(
        cls,
        runtime: Runtime,
        *,
        token: str,
        base_url: str = _API,
        is_oauth: bool = False,
        options: FigmaOptions | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> Self:
        """Build the client of a forge, over its store, guards and telemetry; nothing is connected yet.

        Args:
            runtime: the forge.
            token: a personal access token, or an OAuth token where `is_oauth`.
            base_url: of the API.
            is_oauth: how the token is sent.
            options: how long answers live.
            clock_s: the wall clock, for tests.

        Raises:
            ConfigurationError: the token would be sent in the open, or cannot be sent.
            MissingExtra: httpx is not installed.
        """
        options = options or FigmaOptions()
        telemetry, service = runtime.telemetry, runtime.components.store_service
        transport = FigmaHttp(
            base_url=base_url,
            token=token,
            is_oauth=is_oauth,
            max_response_bytes=options.max_response_bytes,
            tracer=telemetry.tracer,
        )
        secret = (runtime.settings.cache_secret or "").encode() or _NO_SECRET
        shelf = FigmaCacheStorage(
            runtime.components.store,
            secret=secret,
            guard=unguarded if service is None else budgeted(runtime.guard(service).call),
            local_bytes=0 if service is None else options.local_bytes,
        )
        return cls(
            transport,
            cache=ResponseCache(shelf, transport.fetch, runtime.guard("figma"), options, clock_s),
            scope=hashlib.sha256(b"forge:figma:scope\0" + token.encode()).hexdigest(),
            tracer=telemetry.tracer,
            instruments=telemetry.instruments,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def node(self, file_key: str, node_id: str) -> FigmaNode:
        """Return one node with its subtree.

        Raises:
            NotFound: there is no such file, or no such node in it.
            BadRequest: the key or the id cannot be one.
            ServiceUnavailable: Figma refuses, fails or cannot be reached, and nothing is kept.
        """
        file_key, node_id = file_key_of(file_key), ids_of([node_id])
        if file_key not in self._large:
            try:
                return await self._node_of_file(file_key, node_id)
            except _TooLarge:
                if len(self._large) >= _MAX_LARGE:
                    self._large.clear()
                self._large[file_key] = None
        answer = await self.nodes(file_key, [node_id])
        entry = answer.body["nodes"].get(node_id)
        if entry is None:
            raise _no_node(file_key, node_id)
        styles = {style_id: style["name"] for style_id, style in entry["styles"].items()}
        return _node(file_key, node_id, answer, entry["document"], styles)

    async def _node_of_file(self, file_key: str, node_id: str) -> FigmaNode:
        try:
            answer = await self.file(file_key)
        except BadRequest as exc:
            # A file that is not there, too, is a BadRequest.
            raise exc if isinstance(exc, NotFound) else _TooLarge from exc
        if answer.size_bytes > _THREAD_ABOVE_BYTES:
            found = await asyncio.to_thread(node_in, answer.body, node_id)
        else:
            found = node_in(answer.body, node_id)
        if found is None:
            raise _no_node(file_key, node_id)
        return _node(file_key, node_id, answer, *found)

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
            file_key: of a file or branch.
            ids: only these nodes, with what is above and below them.
            depth: how many levels of the tree.
            version: an older one, which never changes.
            geometry: `paths` exports vectors.
            branch_data: with the list of branches.
            plugin_data: ids of plugins, or `shared`.

        Raises:
            NotFound, BadRequest, ServiceUnavailable: as `node`.
        """
        params = _params(ids=ids_of(ids) if ids else None, depth=depth, version=version, geometry=geometry)
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
        """Return `GET /v1/files/:key/nodes`; arguments as of `file`."""
        params = _params(ids=ids_of(ids), depth=depth, version=version, geometry=geometry, plugin_data=plugin_data)
        return await self._get("nodes", file_key, params)

    async def styles(self, file_key: str) -> FigmaResponse:
        """Return `GET /v1/files/:key/styles`: the styles that the file publishes."""
        return await self._get("styles", file_key, {})

    async def images(
        self,
        file_key: str,
        ids: Sequence[str],
        *,
        format: Literal["jpg", "png", "svg", "pdf"] = "png",  # noqa: A002 - Figma's word
        scale: float | None = None,
        version: str | None = None,
    ) -> FigmaResponse:
        """Return `GET /v1/images/:key`: a URL for each rendered node, or None. Figma deletes them after 30 days."""
        params = _params(ids=ids_of(ids), format=format, scale=scale, version=version)
        return await self._get("images", file_key, params)

    async def meta(self, file_key: str) -> FigmaResponse:
        """Return `GET /v1/files/:key/meta`: the file's name, its version, who touched it last."""
        return await self._get("meta", file_key, {})

    async def touch(self, file_key: str) -> None:
        """Have the file's version asked for before anything more is answered from what is kept, in all workers."""
        await self._cache.touch(file_key_of(file_key))

    async def invalidate(self, file_key: str) -> None:
        """Have everything of the file fetched anew, in all workers.

        Raises:
            ForgeError or the store's own error: other workers could not be told.
        """
        await self._cache.drop(file_key_of(file_key))

    async def _get(self, what: What, file_key: str, params: Mapping[str, str]) -> FigmaResponse:
        asked = FigmaRequest(
            what=what, file_key=file_key_of(file_key), scope=self._scope, params=tuple(sorted(params.items()))
        )
        started = time.perf_counter()
        attributes = {Attr.CACHE_LAYER: LAYER, Attr.FIGMA_FILE: file_key}
        with self._tracer.start_as_current_span(f"figma {what}", attributes=attributes) as span:
            result, reason = "error", ""
            try:
                answer = await self._cache.get(asked)
                result, reason = answer.source, answer.reason
                span.set_attribute(Attr.CACHE_AGE_S, answer.age_s)
            finally:
                span.set_attribute(Attr.CACHE_RESULT, result)
                if reason:
                    span.set_attribute(Attr.CACHE_MISS_REASON, reason)
                self._count(file_key, result, reason, time.perf_counter() - started)
        if answer.source != "miss":
            self.instruments.add(Metric.FIGMA_SAVED, answer.size_bytes, {Attr.FIGMA_FILE: file_key})
        return answer

    def _count(self, file_key: str, result: str, reason: str, duration_s: float) -> None:
        layer_result = "hit" if result in {"hit", "revalidated", "stale"} else result
        layer = {Attr.CACHE_LAYER: LAYER, Attr.CACHE_RESULT: layer_result}
        self.instruments.add(Metric.CACHE_REQUESTS, 1, layer | ({Attr.CACHE_MISS_REASON: reason} if reason else {}))
        self.instruments.record(
            Metric.CACHE_DURATION, duration_s, {Attr.CACHE_LAYER: LAYER, Attr.CACHE_OPERATION: "get"}
        )
        # A key that is none of a file would take one of the few places that its metric has.
        shown = {} if result == "error" else {Attr.FIGMA_FILE: file_key}
        self.instruments.add(Metric.FIGMA_REQUESTS, 1, shown | {Attr.CACHE_RESULT: result})


class _TooLarge(Exception):
    """The file cannot be read whole."""


def _params(**params: str | float | bool | None) -> dict[str, str]:
    given = {name: value for name, value in params.items() if value is not None and value is not False}
    return {name: "true" if value is True else str(value) for name, value in given.items()}


def _no_node(file_key: str, node_id: str) -> NotFound:
    return NotFound(f"the Figma file {file_key!r} has no node {node_id!r}; open the file's link to see its nodes")


def _node(
    file_key: str, node_id: str, answer: FigmaResponse, document: Mapping[str, Any], styles: Mapping[str, str]
) -> FigmaNode:
    return FigmaNode(
        file_key=file_key,
        node_id=node_id,
        version=answer.body["version"],
        document=document,
        styles=styles,
        age_s=answer.age_s,
        is_stale=answer.source == "stale",
    )
