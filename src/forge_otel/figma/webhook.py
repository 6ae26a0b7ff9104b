"""Receiver of Figma's webhooks (version 2), which invalidates cached responses of changed files.

It is an ASGI application, mounted at the URL to which Figma sends its events::

    app.router.routes.append(Route("/figma/webhook", FigmaWebhook(figma, passcode="…")))

Figma sends events once editing has paused, up to half an hour late. They only shorten the time until a change is seen:
the version checks of the cache do not depend on them.
"""

import hmac
from collections.abc import Mapping
from json import JSONDecodeError
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from forge_otel._internal.checks import require
from forge_otel.errors import BadRequest
from forge_otel.figma.client import FigmaClient
from forge_otel.names import Attr, Metric

__all__ = ["FigmaWebhook"]

# LIBRARY_PUBLISH lists all published components, which may be thousands.
_MAX_BODY_BYTES: Final = 2 * 2**20
_MIN_PASSCODE_CHARS: Final = 16
# These change the version of the file, so that a check of the version is enough.
_VERSION_EVENTS: Final = {"FILE_UPDATE", "FILE_VERSION_UPDATE", "LIBRARY_PUBLISH"}
# These change responses without a new version.
_CONTENT_EVENTS: Final = {"FILE_DELETE", "DEV_MODE_STATUS_UPDATE"}
_IGNORED_EVENTS: Final = {"PING", "FILE_COMMENT"}


class FigmaWebhook:
    """The receiver.

    Args:
        client: the client whose cached responses are invalidated.
        passcode: the passcode of the webhook, at least 16 characters; events without it are rejected.

    Raises:
        ConfigurationError: the passcode is too short.
    """

    def __init__(self, client: FigmaClient, *, passcode: str) -> None:
        require(
            (
                len(passcode) >= _MIN_PASSCODE_CHARS,
                f"the webhook's passcode is shorter than {_MIN_PASSCODE_CHARS} characters",
            )
        )
        self._client = client
        self._passcode = passcode.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            raise RuntimeError("FigmaWebhook handles http requests only")
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method != "POST":
            return _response(405, "Events are sent with POST", headers={"allow": "POST"})
        body = await _body(request)
        if body is None:
            return _response(413, f"Events may have at most {_MAX_BODY_BYTES} bytes")
        event = _parse(body)
        if event is None:
            return self._reject(400, "Not an event of a Figma webhook", "malformed")
        if not hmac.compare_digest(_text(event, "passcode").encode("utf-8", "replace"), self._passcode):
            return self._reject(403, "The passcode is not that of the webhook", "wrong_passcode")
        return await self._handle(_text(event, "event_type"), _text(event, "file_key"))

    async def _handle(self, kind: str, file_key: str) -> Response:
        if kind in _VERSION_EVENTS or kind in _CONTENT_EVENTS:
            invalidate = self._client.touch if kind in _VERSION_EVENTS else self._client.invalidate
            try:
                await invalidate(file_key)
            except BadRequest as exc:
                return self._reject(400, str(exc), "malformed")
            except Exception:
                # Figma sends an event again after an error status.
                self._count(kind, "failed")
                return _response(503, "The event could not be applied in all workers; send it again")
            self._count(kind, "taken")
        else:
            self._count(kind if kind in _IGNORED_EVENTS else "other", "ignored")
        return _response(200, "OK")

    def _reject(self, status: int, sentence: str, outcome: str) -> Response:
        self._count("other", outcome)
        return _response(status, sentence)

    def _count(self, kind: str, outcome: str) -> None:
        self._client.instruments.add(Metric.FIGMA_EVENTS, 1, {Attr.FIGMA_EVENT: kind, Attr.OUTCOME: outcome})


async def _body(request: Request) -> bytes | None:
    """Return the body, or None if it is too large."""
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


def _parse(body: bytes) -> Mapping[str, Any] | None:
    try:
        event = orjson.loads(body)
    except JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None


def _text(event: Mapping[str, Any], name: str) -> str:
    found = event.get(name)
    return found if isinstance(found, str) else ""


def _response(status: int, sentence: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"status": status, "message": sentence}, status_code=status, headers=headers)
