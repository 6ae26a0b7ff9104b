"""Progress as server-sent events: who may see it, what it looks like, and what is left when the client leaves."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message, Receive, Scope, Send
from tests.unit.web.support import TOKEN, SmallRuntime, request

from forge_otel.errors import NotFound
from forge_otel.types import Progress
from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.pages.sse import events

BEARER = ("authorization", f"Bearer {TOKEN}")
STARTED = b'id: 7-1\nevent: started\ndata: {"at_s":0.5,"name":"a\\nb"}\n\n'
DONE = b'id: 7-2\nevent: done\ndata: {"at_s":1.0,"name":"a\\nb"}\n\n'


def _app(token: str | None = TOKEN) -> ForgeMiddleware:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the application was asked")

    return ForgeMiddleware(nothing, forge=SmallRuntime(**({} if token is None else {"admin_token": token})))


@pytest.mark.parametrize("path", ["/forge/api/flights", "/forge/api/flights/k"])
async def test_it_is_closed_by_default(path: str) -> None:
    """Without a token it does not exist, and strangers are turned away."""
    assert (await request(_app(None), path)).status == 404
    assert (await request(_app(), path)).status == 401


async def test_a_follower_sees_everything_or_the_rest() -> None:
    """From the beginning, or after the event that a browser names when it connects again."""
    whole = await request(_app(), "/forge/api/flights/k", headers=[BEARER])
    assert (whole.status, whole.body) == (200, STARTED + DONE)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert (whole.headers["cache-control"], whole.headers["x-accel-buffering"]) == ("no-store", "no")
    rest = await request(_app(), "/forge/api/flights/k", headers=[BEARER, ("last-event-id", "7-1")])
    assert rest.body == DONE
    assert (await request(_app(), "/forge/api/flights", headers=[BEARER])).body == b'[{"key":"k"}]'


async def test_what_is_not_running_is_a_404() -> None:
    """Before anything is sent, so that the answer can say it."""
    answer = await request(_app(), "/forge/api/flights/other", headers=[BEARER])
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_silence_is_filled_and_a_leaver_noticed() -> None:
    """Comments while nothing happens; when the client has gone, the follower is closed."""
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
    """For the application to answer."""

    async def fails() -> AsyncGenerator[Progress, None]:
        raise NotFound("none")
        yield

    with pytest.raises(NotFound):
        await events(fails())
