"""A clock that only a test advances."""

import asyncio

__all__ = ["ManualClock"]


class ManualClock:
    """An implementation of `forge_otel.resilience.deadline.Clock` whose time is set by a test.

    Args:
        now_s: initial time in seconds.
    """

    def __init__(self, now_s: float = 1000.0) -> None:
        self._now_s = now_s
        self.slept_s: list[float] = []
        """The duration of every `sleep`, in order."""

    def now_s(self) -> float:
        """Return the current time in seconds."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Advance the time."""
        self._now_s += seconds

    async def sleep(self, delay_s: float) -> None:
        """Advance the time instead of waiting; other tasks run in between."""
        self.slept_s.append(delay_s)
        self.advance(delay_s)
        await asyncio.sleep(0)
