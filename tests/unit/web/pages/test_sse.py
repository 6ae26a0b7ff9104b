"""Progress as server-sent events: access, format, heartbeats and disconnects."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message
from tests.unit.web.support import TOKEN, InMemoryForge, application_not_called, request

from forge_otel.errors import NotFound
from forge_otel.types import Progress
from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.pages.sse import events

BEARER = ("authorization", f"Bearer {TOKEN}")
STARTED = b'id: 7-1\nevent: started\ndata: {"at_s":0.5,"name":"a\\nb"}\n\n'
DONE = b'id: 7-2\nevent: done\ndata: {"at_s":1.0,"name":"a\\nb"}\n\n'


class RunningForge(InMemoryForge):
    """A forge in which the generation with key `k` runs."""

    def running(self) -> list[str]:
        return ["k"]

    async def follow_key(self, key: str, *, after: str = "", wait_s: float = 5.0) -> AsyncGenerator[Progress, None]:
        if key != "k":
            raise NotFound("no generation of this request is running")
        for number, kind in enumerate(("started", "done"), 1):
            if f"7-{number}" > after:
                yield Progress(id=f"7-{number}", kind=kind, at_s=number / 2, facts={"name": "a\nb"})


def app_of(**settings: str) -> ForgeMiddleware:
    return ForgeMiddleware(application_not_called, forge=RunningForge(**settings))


@pytest.mark.parametrize("path", ["/forge/api/flights", "/forge/api/flights/k"])
async def test_access(path: str) -> None:
    """Without an admin token the routes do not exist; with one, callers need it."""
    assert (await request(app_of(), path)).status == 404
    assert (await request(app_of(admin_token=TOKEN), path)).status == 401


async def test_a_stream_starts_at_the_first_or_at_a_given_event() -> None:
    """A stream has all events, or those after the `Last-Event-ID` of a browser that reconnects."""
    app = app_of(admin_token=TOKEN)
    whole = await request(app, "/forge/api/flights/k", headers=[BEARER])
    assert (whole.status, whole.body) == (200, STARTED + DONE)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert (whole.headers["cache-control"], whole.headers["x-accel-buffering"]) == ("no-store", "no")
    rest = await request(app, "/forge/api/flights/k", headers=[BEARER, ("last-event-id", "7-1")])
    assert rest.body == DONE


async def test_running_generations() -> None:
    """The list has the keys of the running generations."""
    exchange = await request(app_of(admin_token=TOKEN), "/forge/api/flights", headers=[BEARER])
    assert exchange.body == b'[{"key":"k"}]'


async def test_an_unknown_generation_is_a_404() -> None:
    """The status is sent before the stream starts."""
    exchange = await request(app_of(admin_token=TOKEN), "/forge/api/flights/other", headers=[BEARER])
    assert (exchange.status, exchange.headers["content-type"]) == (404, "application/problem+json")


async def test_heartbeats_and_disconnect() -> None:
    """An idle stream sends comments; a client that disconnects closes the generator."""
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[Progress, None]:
        try:
            yield Progress(id="7-1", kind="started", at_s=0.0)
            await asyncio.Event().wait()
        finally:
            closed.set()

    sent: list[bytes] = []
    beats = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))
        if sent.count(b": still running\n\n") == 2:
            beats.set()

    async def receive() -> Message:
        await beats.wait()
        return {"type": "http.disconnect"}

    async with asyncio.timeout(5):
        response = await events(endless(), heartbeat_s=0.01)
        await response({"type": "http", "method": "GET", "headers": []}, receive, send)
        await closed.wait()


async def test_an_error_before_the_first_event_is_raised() -> None:
    """The application can still answer with an error status."""

    async def fails() -> AsyncGenerator[Progress, None]:
        raise NotFound("none")
        yield

    with pytest.raises(NotFound):
        await events(fails())
