"""Reads designs from the Figma REST API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from forge_otel.errors import BadRequest, NotFound
from forge_otel.keys import digest
from forge_otel.layers.fallback import unavailable
from forge_otel.layers.guard import Guard

__all__ = ["FigmaClient", "FigmaNode", "Offer"]

_MAX_KEY_CHARS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaNode:
    """One node of a Figma file with all below it.

    Args:
        version: the file's version when it was read.
        document: the node in the API's shape.
        styles: style id to its name, for the styles that the subtree uses.
    """

    file_key: str
    node_id: str
    version: str
    document: Mapping[str, Any]
    styles: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_hash(self) -> str:
        """The hash of all that is read of the file: it stays when other parts are edited."""
        return digest([self.document, self.styles])


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A component that can be generated."""

    figma_key: str
    node_id: str
    name: str
    component_type: str


class FigmaClient:
    """A small client.

    Args:
        http: owned by the caller, with base address, token and timeout.
        guard: stands around every call.
    """

    def __init__(self, http: httpx.AsyncClient, *, guard: Guard | None = None) -> None:
        self._http = http
        self._guard = (guard or Guard("figma")).using(fallbacks=[unavailable("figma")])

    async def node(self, file_key: str, node_id: str) -> FigmaNode:
        """Fetch one node with its subtree.

        Raises:
            NotFound: there is no such file, or no such node in it.
            BadRequest: the key or the id cannot be one.
            ServiceUnavailable: Figma refuses, fails or cannot be reached.
        """
        answer = await self._get(file_key, "/nodes", ids=node_id)
        entry = answer["nodes"].get(node_id)
        if entry is None:
            raise NotFound(f"the Figma file {file_key!r} has no node {node_id!r}; GET /components lists what there is")
        return FigmaNode(
            file_key=file_key,
            node_id=node_id,
            version=answer["version"],
            document=entry["document"],
            styles={style_id: style["name"] for style_id, style in entry["styles"].items()},
        )

    async def offers(self, file_key: str) -> list[Offer]:
        """List the components and component sets of a file; a variant alone is not offered.

        Raises:
            NotFound, ServiceUnavailable: as `node`.
        """
        answer = await self._get(file_key, "", depth="2")
        return [
            Offer(
                figma_key=file_key,
                node_id=node["id"],
                name=node["name"],
                component_type=node["name"].partition("/")[0].lower(),
            )
            for page in answer["document"]["children"]
            for node in page["children"]
            if node["type"] in {"COMPONENT", "COMPONENT_SET"}
        ]

    async def _get(self, file_key: str, what: str, **params: str) -> Any:
        if not file_key or len(file_key) > _MAX_KEY_CHARS:
            raise BadRequest(f"figma_key must have 1 to {_MAX_KEY_CHARS} characters")
        return await self._guard.call(self._fetch, file_key, what, params)

    async def _fetch(self, file_key: str, what: str, params: Mapping[str, str]) -> Any:
        response = await self._http.get(f"/v1/files/{quote(file_key, safe='')}{what}", params=params)
        if response.status_code == 404:
            raise NotFound(f"there is no Figma file {file_key!r}, or the token may not see it")
        if response.status_code == 400:
            raise BadRequest(f"Figma does not accept the request for the file {file_key!r}")
        return response.raise_for_status().json()
