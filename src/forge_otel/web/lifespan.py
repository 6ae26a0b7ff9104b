"""Opening the forge before the application and closing it after, by the ASGI lifespan protocol or without it."""

import asyncio
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_otel.errors import ForgeError
from forge_otel.web.gc_freeze import GcFreeze
from forge_otel.web.protocols import Runtime

__all__ = ["Lifespan", "Opener"]

logger = logging.getLogger(__name__)


class Opener:
    """Opens the forge of one middleware once: by the lifespan, or by the first request where no lifespan came.

    Args:
        find: returns the forge; asked when it is first needed, so that building an application has no side effects.
        prepare: gets the scope just before the forge opens.
    """

    def __init__(self, find: Callable[[], Runtime], *, prepare: Callable[[Scope], None]) -> None:
        self._find = find
        self._prepare = prepare
        self._lock = asyncio.Lock()
        self.opened: Runtime | None = None

    async def open(self, scope: Scope) -> Runtime:
        """Return the open forge.

        Args:
            scope: of the lifespan or the request that needs it.

        Raises:
            ForgeError: it cannot be opened; the next call tries again.
        """
        async with self._lock:
            if self.opened is None:
                forge = self._find()
                self._prepare(scope)
                await forge.__aenter__()
                self.opened = forge
            return self.opened

    async def close(self) -> None:
        """Give the forge back; one that others have entered too stays open for them."""
        forge, self.opened = self.opened, None
        if forge is not None:
            await forge.__aexit__(None, None, None)


class Lifespan:
    """One run of an application, from its startup to its shutdown.

    Args:
        app: the application; one that knows no lifespan is run all the same.
        opener: opens and closes the forge.
    """

    def __init__(self, app: ASGIApp, opener: Opener) -> None:
        self._app = app
        self._opener = opener
        self._heap = GcFreeze()
        self._sent: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the lifespan protocol for the application and the forge."""
        startup = await receive()
        try:
            await self._opener.open(scope)
        except Exception as exc:
            await send({"type": "lifespan.startup.failed", "message": _plain(exc)})
            return
        try:
            await self._run(startup, scope, receive, send)
        finally:
            await self._close()

    async def _run(self, startup: Message, scope: Scope, receive: Receive, send: Send) -> None:
        waiting: list[Message] = [startup]

        async def receive_with_startup() -> Message:
            return waiting.pop() if waiting else await receive()

        async def send_after_close(message: Message) -> None:
            self._sent.add(message["type"])
            if message["type"] == "lifespan.startup.complete":
                self._settle()
            if message["type"].startswith("lifespan.shutdown."):
                # The server may end the process as soon as it hears this.
                await self._close()
            await send(message)

        try:
            await self._app(scope, receive_with_startup, send_after_close)
        except Exception:
            if self._sent:
                raise
            # By the specification such an application knows no lifespan, and is served without.
            logger.debug("The application has no lifespan", exc_info=True)
        if not self._sent:
            self._settle()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._close()
            await send({"type": "lifespan.shutdown.complete"})

    def _settle(self) -> None:
        """Before the first request, while a pause is felt by nobody."""
        if self._opener.opened is not None and self._opener.opened.settings.freeze_heap:
            self._heap.freeze()

    async def _close(self) -> None:
        self._heap.thaw()
        try:
            await self._opener.close()
        except Exception:
            # What the application says about its own shutdown must still reach the server.
            logger.exception("The forge could not be closed")


def _plain(exc: Exception) -> str:
    if isinstance(exc, ForgeError):
        return str(exc)
    logger.error("The forge could not be opened", exc_info=exc)
    return f"forge-otel could not be opened: {type(exc).__name__}: {exc}"
