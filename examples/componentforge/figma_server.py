"""Stand-in for the Figma REST API: the same paths, shapes and errors, serving the sample files of `designs`.

Contract: the OpenAPI description in the repository ``figma/rest-api-spec``. Deliberate differences:

- files are kept in memory, and ``POST /_standin/edit`` (not part of the real API) changes them;
- every non-empty token is accepted, unless `tokens` lists the valid ones;
- an edit sends its webhook event immediately, whereas Figma waits until editing pauses;
- there are no rate limits, images are not rendered (each node has a URL), and ``version``, ``geometry``,
  ``plugin_data`` and ``branch_data`` are ignored.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from json import JSONDecodeError
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from componentforge.designs import FILES, load
from componentforge.designs.nodes import rgba

__all__ = ["StandInFigma"]

_USER = {"id": "1107", "handle": "stand-in", "img_url": "https://figma.example/avatars/1107"}

Json = dict[str, Any]


class _ApiError(Exception):
    """An error response of the API."""

    def __init__(self, status: int, err: str) -> None:
        super().__init__(err)
        self.status = status
        self.err = err


class StandInFigma:
    """The server: `app` is the ASGI application, `requests` counts its requests by path.

    Args:
        tokens: valid access tokens; None accepts every token.
    """

    def __init__(self, *, tokens: Collection[str] | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self._tokens = tokens
        self._files = {key: load(key) for key in FILES}
        self.app = Starlette(
            routes=[
                Route("/v1/files/{key}", self._file),
                Route("/v1/files/{key}/nodes", self._nodes),
                Route("/v1/files/{key}/styles", self._styles),
                Route("/v1/files/{key}/meta", self._meta),
                Route("/v1/images/{key}", self._images),
                Route("/_standin/edit", self._edit, methods=["POST"]),
            ],
            exception_handlers={_ApiError: _error_response, 404: _unknown_path},
        )

    def edit(self, key: str, node_id: str, *, text: str | None = None, fill: str | None = None) -> str:
        """Edit a component as a designer would, and return the new version of its file.

        Args:
            key: of the file.
            node_id: of the component.
            text: new characters of the first text layer, in every variant.
            fill: ``#rrggbb``, new fill of the first filled layer.

        Raises:
            KeyError: no such file or node.
            ValueError: nothing to change, or `fill` is not a colour.
        """
        file = self._files[key]
        node = _find(file["document"], node_id)
        if node is None:
            raise KeyError(node_id)
        layers = [node, *_descendants(node)]
        texts = [layer for layer in layers if layer["type"] == "TEXT"]
        filled = [layer for layer in layers if layer.get("fills")]
        color = None if fill is None else _color(fill)
        if not (text is not None and texts) and not (color and filled):
            raise ValueError("nothing to change; give a text or a fill that the component has")
        if text is not None:
            for layer in texts:
                if layer["name"] == texts[0]["name"]:
                    layer["characters"] = text
        if color:
            filled[0]["fills"][0]["color"] = color
        file["version"] = str(int(file["version"]) + 1)
        # A fixed step instead of the wall clock, so that the same edits give the same file on every run.
        file["lastModified"] = _later(file["lastModified"])
        return str(file["version"])

    async def announce(self, key: str, *, url: str, passcode: str) -> None:
        """Send the ``FILE_UPDATE`` webhook event of a file.

        Raises:
            httpx.HTTPError: the receiver is unreachable or rejects the event.
        """
        file = self._files[key]
        event = {
            "event_type": "FILE_UPDATE",
            "passcode": passcode,
            "timestamp": file["lastModified"],
            "webhook_id": "22",
            "file_key": key,
            "file_name": file["name"],
        }
        async with httpx.AsyncClient() as http:
            (await http.post(url, json=event)).raise_for_status()

    async def _file(self, request: Request) -> Response:
        file = self._known(request)
        ids, depth = _ids(request), _depth(request)
        document = file["document"]
        if ids:
            document = _only(document, ids)
        return JSONResponse(file | {"document": document if depth is None else _cut(document, depth)})

    async def _nodes(self, request: Request) -> Response:
        file = self._known(request)
        ids, depth = _ids(request), _depth(request)
        if not ids:
            raise _ApiError(400, "Parameter `ids` is required")
        nodes: Json = {}
        for node_id in ids:
            node = _find(file["document"], node_id)
            nodes[node_id] = None if node is None else _entry(file, node, depth=depth)
        head = ("name", "lastModified", "thumbnailUrl", "version", "role", "editorType")
        return JSONResponse({name: file[name] for name in head} | {"nodes": nodes})

    async def _styles(self, request: Request) -> Response:
        try:
            file = self._known(request)
        except _ApiError as error:
            if error.status != 404:
                raise
            # Library endpoints have another error format, in the contract as well.
            return JSONResponse({"error": True, "status": 404, "message": "Not found"}, status_code=404)
        modified = file["lastModified"]
        styles = [
            {
                "key": style["key"],
                "file_key": request.path_params["key"],
                "node_id": node_id,
                "style_type": style["styleType"],
                "name": style["name"],
                "description": style["description"],
                "created_at": modified,
                "updated_at": modified,
                "user": _USER,
                "sort_position": f"{position:06d}",
            }
            for position, (node_id, style) in enumerate(file["styles"].items())
        ]
        return JSONResponse({"status": 200, "error": False, "meta": {"styles": styles}})

    async def _images(self, request: Request) -> Response:
        file = self._known(request)
        ids = _ids(request)
        if not ids:
            raise _ApiError(400, "Parameter `ids` is required")
        base = f"https://figma.example/images/{request.path_params['key']}/{file['version']}"
        images = {one: f"{base}/{one}.png" if _find(file["document"], one) else None for one in ids}
        return JSONResponse({"err": None, "images": images})

    async def _meta(self, request: Request) -> Response:
        file = self._known(request)
        return JSONResponse(
            {
                "name": file["name"],
                "folder_name": "Samples",
                "last_touched_at": file["lastModified"],
                "creator": _USER,
                "last_touched_by": _USER,
                "thumbnail_url": file["thumbnailUrl"],
                "editorType": file["editorType"],
                "role": file["role"],
                "link_access": file["linkAccess"],
                "url": f"https://figma.example/design/{request.path_params['key']}",
                "version": file["version"],
            }
        )

    async def _edit(self, request: Request) -> Response:
        try:
            edit = await request.json()
            changes = {name: str(edit[name]) for name in ("text", "fill") if name in edit}
            version = self.edit(edit["file_key"], edit["node_id"], **changes)
        except (JSONDecodeError, KeyError, TypeError, ValueError) as exc:
            raise _ApiError(400, f"The stand-in cannot apply this edit: {exc}") from exc
        return JSONResponse({"version": version})

    def _known(self, request: Request) -> Json:
        self.requests[request.url.path] += 1
        token = request.headers.get("x-figma-token", "")
        if not token or (self._tokens is not None and token not in self._tokens):
            raise _ApiError(403, "Invalid token")
        file = self._files.get(request.path_params["key"])
        if file is None:
            raise _ApiError(404, "Not found")
        return file


async def _error_response(_request: Request, exc: Exception) -> Response:
    if not isinstance(exc, _ApiError):
        raise exc
    return JSONResponse({"status": exc.status, "err": exc.err}, status_code=exc.status)


async def _unknown_path(_request: Request, _exc: Exception) -> Response:
    return JSONResponse({"status": 404, "err": "Not found"}, status_code=404)


def _ids(request: Request) -> list[str]:
    # Browser links write node ids as "1-2", the API as "1:2"; the real API accepts both.
    return [part.strip().replace("-", ":") for part in request.query_params.get("ids", "").split(",") if part.strip()]


def _depth(request: Request) -> int | None:
    text = request.query_params.get("depth")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise _ApiError(400, "Parameter `depth` must be a positive integer")
    return int(text)


def _descendants(node: Json) -> Iterator[Json]:
    for child in node.get("children", []):
        yield child
        yield from _descendants(child)


def _find(node: Json, node_id: str) -> Json | None:
    return next((found for found in (node, *_descendants(node)) if found["id"] == node_id), None)


def _cut(node: Json, depth: int) -> Json:
    """Return a copy of a node with `depth` levels of children; leaves keep having no ``children`` field."""
    if "children" not in node:
        return node
    children = [_cut(child, depth - 1) for child in node["children"]] if depth else []
    return node | {"children": children}


def _only(document: Json, ids: Collection[str]) -> Json:
    """Return a copy of the document with the requested nodes, their ancestors and descendants, and every page."""
    pages = [_prune(page, ids) or page | {"children": []} for page in document["children"]]
    return document | {"children": pages}


def _prune(node: Json, ids: Collection[str]) -> Json | None:
    if node["id"] in ids:
        return node
    children = [kept for child in node.get("children", []) if (kept := _prune(child, ids))]
    return node | {"children": children} if children else None


def _entry(file: Json, node: Json, *, depth: int | None) -> Json:
    """Return one value of the ``nodes`` map, with the styles and components that its subtree refers to."""
    layers = [node, *_descendants(node)]
    layer_ids = {layer["id"] for layer in layers}
    used_styles = {style_id for layer in layers for style_id in layer.get("styles", {}).values()}
    return {
        "document": node if depth is None else _cut(node, depth),
        "components": {key: value for key, value in file["components"].items() if key in layer_ids},
        "componentSets": {key: value for key, value in file["componentSets"].items() if key in layer_ids},
        "schemaVersion": file["schemaVersion"],
        "styles": {key: value for key, value in file["styles"].items() if key in used_styles},
    }


def _color(fill: str) -> Json:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", fill):
        raise ValueError(f"{fill!r} is not a colour; write #rrggbb")
    return rgba(fill)


def _later(timestamp: str) -> str:
    moment = datetime.fromisoformat(timestamp) + timedelta(minutes=1)
    return moment.isoformat().replace("+00:00", "Z")
