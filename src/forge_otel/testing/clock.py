"""A clock that stands still until a test moves it."""

import asyncio

__all__ = ["ManualClock"]


class ManualClock:
    """Time by hand, for whatever takes a `forge_otel.resilience.deadline.Clock`.

    Args:
        now_s: where it begins.
    """

    def __init__(self, now_s: float = 1000.0) -> None:
        self._now_s = now_s
        self.slept_s: list[float] = []
        """Every pause that was asked for, in order."""

    def now_s(self) -> float:
        """Return the seconds it stands at."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move it forward."""
        self._now_s += seconds

    async def sleep(self, delay_s: float) -> None:
        """Move it forward instead of waiting; others run meanwhile."""
        self.slept_s.append(delay_s)
        self.advance(delay_s)
        await asyncio.sleep(0)
