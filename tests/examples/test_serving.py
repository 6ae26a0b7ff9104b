"""Servers inside the test process."""

import pytest
from starlette.types import Receive, Scope, Send

from componentforge.serving import serve


async def test_a_failed_startup_is_an_error() -> None:
    """A failed lifespan startup raises RuntimeError instead of ending the process."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="did not start"):
        async with serve(app):
            pytest.fail("it must not start")


async def test_a_taken_port_is_an_error() -> None:
    """Two servers cannot share a port."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async with serve(app) as url:
        with pytest.raises(OSError, match="in use"):
            async with serve(app, port=int(url.rpartition(":")[2])):
                pytest.fail("it must not start")
