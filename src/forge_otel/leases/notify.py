"""Bells that ring for a key in this process, however the news of it came."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["WakeupHub"]


class WakeupHub:
    """Knows who waits for which key; for one event loop.

    Args:
        every_s: rings at least so often, where nobody rings; None: only then.
    """

    def __init__(self, *, every_s: float | None = None) -> None:
        self._every_s = every_s
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def listen(self, key: str) -> Iterator["_Wakeup"]:
        """Have a bell for `key` inside the block."""
        rung = asyncio.Event()
        self._waiting.setdefault(key, set()).add(rung)
        try:
            yield _Wakeup(rung, self._every_s)
        finally:
            self._waiting[key].discard(rung)
            if not self._waiting[key]:
                del self._waiting[key]

    def ring(self, key: str) -> None:
        """Wake whoever waits for `key`."""
        for rung in self._waiting.get(key, ()):
            rung.set()

    def ring_all(self) -> None:
        """Wake everybody, because news may have been missed."""
        for key in self._waiting:
            self.ring(key)


class _Wakeup:
    def __init__(self, rung: asyncio.Event, every_s: float | None) -> None:
        self._rung = rung
        self._every_s = every_s

    async def wait(self, timeout_s: float, /) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s if self._every_s is None else min(timeout_s, self._every_s)):
                await self._rung.wait()
        self._rung.clear()
