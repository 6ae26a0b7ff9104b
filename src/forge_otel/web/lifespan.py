"""Opens the forge before the application starts and closes it after the application stops."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_otel.errors import ForgeError
from forge_otel.web.gc_freeze import GcFreeze

__all__ = ["Lifespan", "Opener"]

_logger = logging.getLogger(__name__)

ResourceT = TypeVar("ResourceT", bound=AbstractAsyncContextManager[Any])


class Opener(Generic[ResourceT]):
    """Opens one resource once: at the lifespan's startup, or at the first request of a server without lifespan.

    Args:
        find: returns the resource; called when it is first needed, so that building an application has no side effects.
        prepare: called with the ASGI scope just before the resource opens.
    """

    def __init__(self, find: Callable[[], ResourceT], *, prepare: Callable[[Scope], None]) -> None:
        self._find = find
        self._prepare = prepare
        self._lock = asyncio.Lock()
        self.opened: ResourceT | None = None

    async def open(self, scope: Scope) -> ResourceT:
        """Return the resource, opening it first if necessary.

        Args:
            scope: the lifespan or the request that needs the resource.

        Raises:
            Exception: the resource could not be opened; the next call tries again.
        """
        # Without lifespan, concurrent first requests arrive here together.
        async with self._lock:
            if self.opened is None:
                resource = self._find()
                self._prepare(scope)
                await resource.__aenter__()
                self.opened = resource
            return self.opened

    async def close(self) -> None:
        """Exit the resource once; it stays open while other middlewares or workers have entered it."""
        resource, self.opened = self.opened, None
        if resource is not None:
            await resource.__aexit__(None, None, None)


class Lifespan(Generic[ResourceT]):
    """One run of the ASGI lifespan protocol, from startup to shutdown.

    Args:
        app: the application; it may lack lifespan support.
        opener: opens and closes the forge.
        freezes_gc: returns whether to freeze the heap after startup; called once the forge is open.
    """

    def __init__(self, app: ASGIApp, opener: Opener[ResourceT], *, freezes_gc: Callable[[ResourceT], bool]) -> None:
        self._app = app
        self._opener = opener
        self._freezes_gc = freezes_gc
        self._gc = GcFreeze()
        self._sent: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the protocol for the forge and the application."""
        startup = await receive()
        try:
            await self._opener.open(scope)
        except Exception as exc:
            await send({"type": "lifespan.startup.failed", "message": _failure_message(exc)})
            return
        try:
            await self._run(startup, scope, receive, send)
        finally:
            await self._close()

    async def _run(self, startup: Message, scope: Scope, receive: Receive, send: Send) -> None:
        pending: list[Message] = [startup]

        async def receive_with_startup() -> Message:
            return pending.pop() if pending else await receive()

        async def send_after_close(message: Message) -> None:
            self._sent.add(message["type"])
            if message["type"] == "lifespan.startup.complete":
                self._freeze()
            if message["type"].startswith("lifespan.shutdown."):
                # The server may end the process as soon as it receives this message.
                await self._close()
            await send(message)

        try:
            await self._app(scope, receive_with_startup, send_after_close)
        except Exception:
            if self._sent:
                raise
            # ASGI specification: an application that raises before any message does not support lifespan.
            _logger.debug("application does not support lifespan", exc_info=True)
        if not self._sent:
            self._freeze()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._close()
            await send({"type": "lifespan.shutdown.complete"})

    def _freeze(self) -> None:
        # Before the first request, so that the full collection delays no caller.
        if self._opener.opened is not None and self._freezes_gc(self._opener.opened):
            self._gc.freeze()

    async def _close(self) -> None:
        self._gc.unfreeze()
        try:
            await self._opener.close()
        except Exception:
            # Not raised: the application's own shutdown message must still reach the server.
            _logger.exception("forge could not be closed")


def _failure_message(exc: Exception) -> str:
    if isinstance(exc, ForgeError):
        return str(exc)
    _logger.error("forge could not be opened", exc_info=exc)
    return f"forge-otel could not be opened: {type(exc).__name__}: {exc}"
