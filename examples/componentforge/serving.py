"""Serve an ASGI application with uvicorn inside the current process, on a loopback port."""

import asyncio
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

__all__ = ["serve"]

_GRACE_S = 5


class _Server(uvicorn.Server):
    """A uvicorn server with a `ready` event that leaves signal handling to its process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers."""
        # Ctrl-C and SIGTERM belong to the program that embeds this server.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start up, then set `ready`."""
        try:
            await super().startup(sockets=sockets)
        except SystemExit as exc:  # uvicorn would end the whole process
            raise RuntimeError("the application did not start; see its log") from exc
        self.ready.set()


@asynccontextmanager
async def serve(app: Any, *, port: int = 0, log_level: str = "error") -> AsyncIterator[str]:
    """Serve `app` inside an `async with` block and yield its base address, without a trailing slash.

    Args:
        app: an ASGI application.
        port: 0 picks a free port.
        log_level: of uvicorn's log.

    Raises:
        OSError: the port is taken.
        RuntimeError: the application did not start; its log has the error.
    """
    # asyncio sets TCP_NODELAY only on sockets made with IPPROTO_TCP; without it responses wait up to 40 ms.
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
