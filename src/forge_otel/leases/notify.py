"""In-process wake-ups for the waiters of a key, whichever way the change became known."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from forge_otel.types import WaitForChange

__all__ = ["WakeupHub"]


class WakeupHub:
    """Wakes the waiters of a key; for one event loop.

    Args:
        poll_s: wakes every waiter after so many seconds even without a notification; None relies on notifications.
    """

    def __init__(self, *, poll_s: float | None = None) -> None:
        self._poll_s = poll_s
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def listen(self, key: str) -> Iterator[WaitForChange]:
        """Yield a function that waits for the next notification of `key`; those inside the block are not missed."""
        changed = asyncio.Event()
        self._waiting.setdefault(key, set()).add(changed)
        try:
            yield partial(self._wait, changed)
        finally:
            self._waiting[key].discard(changed)
            if not self._waiting[key]:
                del self._waiting[key]

    def notify(self, key: str) -> None:
        """Wake the waiters of `key`."""
        for changed in self._waiting.get(key, ()):
            changed.set()

    def notify_all(self) -> None:
        """Wake the waiters of every key, because notifications may have been missed."""
        for key in self._waiting:
            self.notify(key)

    async def _wait(self, changed: asyncio.Event, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s if self._poll_s is None else min(timeout_s, self._poll_s)):
                await changed.wait()
        changed.clear()
