"""`/forge/api/flights`: what is being generated, and its progress as server-sent events.

Our own route wants the admin token, as all of `/forge/api/` does, because it shows everybody's work. An application
that lets its callers watch their own gives them a route under its own rules: ``return await events(forge.follow(order,
after=last_event_id(request)))``.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from forge_otel.types import Progress
from forge_otel.web.pages.auth import AdminAuth

__all__ = ["Follows", "ProgressStreams", "events", "last_event_id"]

Endpoint = Callable[[Request], Awaitable[Response]]

_GET: Final = ("GET", "HEAD")
_ONE: Final = "/{id}"
_HEARTBEAT_S: Final = 15.0
_MAX_ID_CHARS: Final = 64
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}


class Follows(Protocol):
    """Knows what is being generated."""

    def running(self) -> Sequence[str]:
        """Return the keys that are being generated or waited for in this process."""
        ...

    def follow_key(self, key: str, *, after: str = "", wait_s: float = 5.0) -> AsyncGenerator[Progress, None]:
        """Watch the generation of a key."""
        ...


class ProgressStreams:
    """The pages.

    Args:
        forge: whose generations are shown.
        admin: who may see them.
    """

    def __init__(self, forge: Follows, admin: AdminAuth) -> None:
        self._forge = forge
        self._admin = admin

    def pages(self) -> list[tuple[str, Endpoint, tuple[str, ...]]]:
        """Return path, endpoint and methods of each page."""
        return [("/api/flights", self._list, _GET), ("/api/flights" + _ONE, self._follow, ("GET",))]

    async def _list(self, request: Request) -> Response:
        self._admin.require(request)
        keys = orjson.dumps([{"key": key} for key in self._forge.running()])
        return Response(keys, headers=_HEADERS, media_type="application/json")

    async def _follow(self, request: Request) -> Response:
        self._admin.require(request)
        key = request.url.path.rpartition("/")[2][:_MAX_ID_CHARS]
        return await events(self._forge.follow_key(key, after=last_event_id(request), wait_s=0.5))


def last_event_id(request: Request) -> str:
    """Return the id of the last event that the client has, as a browser sends it when it connects again."""
    return request.headers.get("last-event-id", "")[:_MAX_ID_CHARS]


async def events(progress: AsyncGenerator[Progress, None], *, heartbeat_s: float = _HEARTBEAT_S) -> Response:
    """Answer with progress as server-sent events (WHATWG HTML, 9.2), a comment now and then while nothing happens.

    Args:
        progress: of a generation, as `forge_otel.Forge.follow` gives it; closed when the client leaves.
        heartbeat_s: seconds between comments, which keep proxies from hanging up, and find out who has left.

    Raises:
        Exception: what comes in place of the first event, such as NotFound, while it can still be answered properly.
    """
    first = await anext(progress, None)
    return StreamingResponse(_stream(progress, first, heartbeat_s), headers=_HEADERS, media_type="text/event-stream")


async def _stream(
    progress: AsyncGenerator[Progress, None], first: Progress | None, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    coming = asyncio.create_task(_value(first))
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=heartbeat_s)
            if not done:
                yield b": still running\n\n"
                continue
            event = coming.result()
            if event is None:
                return
            yield _message(event)
            coming = asyncio.create_task(_next(progress))
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        await progress.aclose()


async def _value(event: Progress | None) -> Progress | None:
    return event


async def _next(progress: AsyncGenerator[Progress, None]) -> Progress | None:
    return await anext(progress, None)


def _message(event: Progress) -> bytes:
    # JSON has no line breaks, and a kind that somebody else wrote may have.
    kind = event.kind if event.kind.isidentifier() else "unknown"
    data = orjson.dumps({"at_s": event.at_s, **event.facts})
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), kind.encode(), data)
