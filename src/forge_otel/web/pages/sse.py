"""Progress of running generations as server-sent events (WHATWG HTML, section 9.2).

`/forge/api/flights` shows the generations of all callers and therefore needs the admin token. An application that lets
callers watch their own generations adds a route with its own rules: ``return await events(forge.follow(request,
after=last_event_id(http_request)))``.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from forge_otel.types import Progress
from forge_otel.web.pages.auth import AdminAuth
from forge_otel.web.pages.router import ITEM, Page

__all__ = ["ProgressStreams", "events", "last_event_id"]

_HEARTBEAT_S: Final = 15.0
_MAX_ID_CHARS: Final = 64
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}


class ProgressStreams:
    """Pages that list the running generations and stream the progress of one.

    Args:
        auth: authenticates requests.
        running: returns the keys of the generations that run or are awaited in this process.
        follow: streams the progress of the generation with a key, from the event after an event id ("" for all).
    """

    def __init__(
        self,
        auth: AdminAuth,
        *,
        running: Callable[[], Sequence[str]],
        follow: Callable[[str, str], AsyncGenerator[Progress, None]],
    ) -> None:
        self._auth = auth
        self._running = running
        self._follow = follow

    def pages(self) -> list[Page]:
        """Return the pages, relative to the dashboard's folder."""
        return [Page("/api/flights", self._list), Page("/api/flights" + ITEM, self._stream, ("GET",))]

    async def _list(self, request: Request) -> Response:
        self._auth.require_admin(request)
        keys = orjson.dumps([{"key": key} for key in self._running()])
        return Response(keys, headers=_HEADERS, media_type="application/json")

    async def _stream(self, request: Request) -> Response:
        self._auth.require_admin(request)
        key = request.url.path.rpartition("/")[2][:_MAX_ID_CHARS]
        return await events(self._follow(key, last_event_id(request)))


def last_event_id(request: Request) -> str:
    """Return the `Last-Event-ID` header, which browsers send when they reconnect; "" if it is absent."""
    return request.headers.get("last-event-id", "")[:_MAX_ID_CHARS]


async def events(progress: AsyncGenerator[Progress, None], *, heartbeat_s: float = _HEARTBEAT_S) -> Response:
    """Return a response that streams progress as server-sent events, with comments as heartbeats.

    Args:
        progress: as returned by `forge_otel.Forge.follow`; closed when the client disconnects.
        heartbeat_s: seconds between comments, which keep proxies from closing an idle connection.

    Raises:
        Exception: raised by `progress` in place of its first event, for example NotFound.
    """
    # Awaited here, so that an error still becomes an error response.
    first = await anext(progress, None)
    return StreamingResponse(_stream(progress, first, heartbeat_s), headers=_HEADERS, media_type="text/event-stream")


async def _stream(
    progress: AsyncGenerator[Progress, None], first: Progress | None, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    pending = asyncio.create_task(_value(first))
    try:
        while True:
            # Not wait_for: a heartbeat must not cancel the pending event.
            done, _ = await asyncio.wait([pending], timeout=heartbeat_s)
            if not done:
                yield b": still running\n\n"
                continue
            event = pending.result()
            if event is None:
                return
            yield _message(event)
            pending = asyncio.create_task(_next(progress))
    finally:
        pending.cancel()
        # aclose() raises RuntimeError while the generator still runs.
        await asyncio.wait([pending])
        await progress.aclose()


async def _value(event: Progress | None) -> Progress | None:
    return event


async def _next(progress: AsyncGenerator[Progress, None]) -> Progress | None:
    return await anext(progress, None)


def _message(event: Progress) -> bytes:
    # JSON has no line breaks; a kind from another process might, and would inject events.
    kind = event.kind if event.kind.isidentifier() else "unknown"
    data = orjson.dumps({"at_s": event.at_s, **event.facts})
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), kind.encode(), data)
