"""Background work that is repeated at an interval."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from forge_otel._internal.tasks import BackgroundTask

__all__ = ["Periodic"]

_logger = logging.getLogger(__name__)


class Periodic:
    """Calls an async function at an interval, from `start` to `stop`; an error is logged and the next call is made.

    Args:
        work: the function; it may be cancelled at any moment.
        name: of the asyncio task.
        failing: begins the log line about an error; the type of the error follows.
        first_after_s: delay of the first call in seconds, plus a random part of the same length, so that workers do not
            start together.
        every_s: pause between two calls in seconds.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[object]],
        *,
        name: str,
        failing: str,
        first_after_s: float = 60.0,
        every_s: float = 3600.0,
    ) -> None:
        self._work = work
        self._failing = failing
        self._first_after_s = first_after_s
        self._every_s = every_s
        self._task = BackgroundTask(self._run, name=name)

    def start(self) -> None:
        """Start the interval."""
        self._task.start()

    async def stop(self) -> None:
        """Cancel the interval and the call that may be running."""
        await self._task.stop()

    async def _run(self) -> None:
        await asyncio.sleep(self._first_after_s * random.uniform(1, 2))  # noqa: S311 - jitter
        while True:
            try:
                await self._work()
            except Exception as exc:
                _logger.warning("%s and are tried again later: %s", self._failing, type(exc).__name__)
            await asyncio.sleep(self._every_s)
