"""Runs an ASGI application under uvicorn inside this process, on a free loopback port."""

import asyncio
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

__all__ = ["serve"]

_GRACE_S = 5


class _Server(uvicorn.Server):
    """A uvicorn server that tells when it is ready, and leaves signals to the process that it runs in."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none: Ctrl-C belongs to whoever started us."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start up, then say so."""
        try:
            await super().startup(sockets=sockets)
        except SystemExit as exc:  # uvicorn would end the whole process
            raise RuntimeError("the application did not start; its log says why") from exc
        self.ready.set()


@asynccontextmanager
async def serve(app: Any, *, port: int = 0, log_level: str = "error") -> AsyncIterator[str]:
    """Serve `app` while the block runs; yields its base address, without a slash at the end.

    Args:
        app: an ASGI application.
        port: 0 takes a free one.
        log_level: uvicorn's own log.

    Raises:
        OSError: the port is taken.
        RuntimeError: the application did not start; its own log says why.
    """
    # asyncio switches Nagle's algorithm off only where the socket says that it is TCP; else answers wait 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        config = uvicorn.Config(app, log_level=log_level, access_log=False, timeout_graceful_shutdown=_GRACE_S)
        server = _Server(config)
        running = asyncio.create_task(server.serve([listener]))
        ready = asyncio.create_task(server.ready.wait())
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            await running
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
