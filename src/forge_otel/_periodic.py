"""Work that is done again and again in the background, and ends when it is told to."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from logging import getLogger

__all__ = ["Periodic"]

_log = getLogger(__name__)


class Periodic:
    """Does something soon after `start`, then at an interval, until `stop`.

    Args:
        work: may be cancelled at any moment.
        name: of the task.
        failing: what is logged before the type of an error; the work is tried again the next time.
        first_after_s: so long after the start, or a random part of it more, so that workers do not start together.
        every_s: from one time to the next.
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
        self._name = name
        self._failing = failing
        self._first_after_s = first_after_s
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """End, wherever it is."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)

    async def _run(self) -> None:
        await asyncio.sleep(self._first_after_s * random.uniform(1, 2))  # noqa: S311 - jitter
        while True:
            try:
                await self._work()
            except Exception as exc:
                _log.warning("%s and are tried again later: %s", self._failing, type(exc).__name__)
            await asyncio.sleep(self._every_s)
