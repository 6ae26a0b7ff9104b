"""Receives Figma's webhooks (version 2): what changed there is checked before it is answered from L0 again.

An ASGI application, for a route where Figma sends its events::

    app.router.routes.append(Route("/figma/webhook", FigmaWebhook(figma, passcode="…")))

Events come once editing has paused, up to half an hour late, so they make answers fresher and are not relied on.
"""

import hmac
from collections.abc import Mapping
from json import JSONDecodeError
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from forge_otel.errors import BadRequest, ConfigurationError
from forge_otel.figma.client import FigmaClient
from forge_otel.names import Attr, Metric

__all__ = ["FigmaWebhook"]

# A library of thousands of components publishes a list of them all.
_MAX_BODY_BYTES: Final = 2 * 2**20
_MIN_PASSCODE_CHARS: Final = 16
# After these the file has a new version, if it has changed at all: asking for it is enough.
_TOUCHED_BY: Final = {"FILE_UPDATE", "FILE_VERSION_UPDATE", "LIBRARY_PUBLISH"}
# These change what is answered for a file without a new version.
_DROPPED_BY: Final = {"FILE_DELETE", "DEV_MODE_STATUS_UPDATE"}
_IGNORED: Final = {"PING", "FILE_COMMENT"}


class FigmaWebhook:
    """The receiver.

    Args:
        client: whose answers are invalidated.
        passcode: what Figma was told to send along, at least 16 characters; an event without it is refused.

    Raises:
        ConfigurationError: the passcode could be guessed.
    """

    def __init__(self, client: FigmaClient, *, passcode: str) -> None:
        if len(passcode) < _MIN_PASSCODE_CHARS:
            raise ConfigurationError([f"the webhook's passcode is shorter than {_MIN_PASSCODE_CHARS} characters"])
        self._client = client
        self._passcode = passcode.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError("the webhook of Figma answers http requests only")
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method != "POST":
            return _said(405, "Events are sent with POST", headers={"allow": "POST"})
        body = await _body(request)
        if body is None:
            return _said(413, f"An event has at most {_MAX_BODY_BYTES} bytes")
        event = _event(body)
        if event is None:
            return self._refuse(400, "Not an event of a Figma webhook", "malformed")
        if not hmac.compare_digest(_text(event, "passcode").encode("utf-8", "replace"), self._passcode):
            return self._refuse(403, "The passcode is not the one that the webhook was made with", "wrong_passcode")
        return await self._take(_text(event, "event_type"), _text(event, "file_key"))

    async def _take(self, kind: str, file_key: str) -> Response:
        if kind in _TOUCHED_BY or kind in _DROPPED_BY:
            end = self._client.touch if kind in _TOUCHED_BY else self._client.invalidate
            try:
                await end(file_key)
            except BadRequest as exc:
                return self._refuse(400, str(exc), "malformed")
            except Exception:
                # Figma sends an event again that was not taken.
                self._count(kind, "failed")
                return _said(503, "The event could not be passed on to all workers; send it again")
            self._count(kind, "taken")
        else:
            self._count(kind if kind in _IGNORED else "other", "ignored")
        return _said(200, "OK")

    def _refuse(self, status: int, sentence: str, outcome: str) -> Response:
        self._count("other", outcome)
        return _said(status, sentence)

    def _count(self, kind: str, outcome: str) -> None:
        self._client.instruments.add(Metric.FIGMA_EVENTS, 1, {Attr.FIGMA_EVENT: kind, Attr.OUTCOME: outcome})


async def _body(request: Request) -> bytes | None:
    """Read the body; None where it is too large."""
    parts, size_bytes = [], 0
    try:
        async for part in request.stream():
            size_bytes += len(part)
            if size_bytes > _MAX_BODY_BYTES:
                return None
            parts.append(part)
    except ClientDisconnect:
        return b""
    return b"".join(parts)


def _event(body: bytes) -> Mapping[str, Any] | None:
    try:
        event = orjson.loads(body)
    except JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None


def _text(event: Mapping[str, Any], name: str) -> str:
    found = event.get(name)
    return found if isinstance(found, str) else ""


def _said(status: int, sentence: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"status": status, "message": sentence}, status_code=status, headers=headers)
