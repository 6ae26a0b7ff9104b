"""Total deadline of a call, shared with all calls inside it through a ContextVar.

A guard inside a guard, a task started by a call, and an SDK that gets `remaining_s` as its timeout never have more time
than the outer call. A deadline rejects work that cannot end in time; only the attempt timeout interrupts running work.

Tasks may outlive the call that started them and keep its context, so a closed scope no longer limits them.
"""

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from forge_otel._internal.checks import require

__all__ = ["SYSTEM_CLOCK", "Clock", "DeadlineOptions", "DeadlineScope", "current_deadline", "deadline", "remaining_s"]


class Clock(Protocol):
    """The time source of guards; `forge_otel.testing.clock.ManualClock` is moved by tests."""

    def now_s(self) -> float:
        """Return monotonic seconds."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Sleep for `delay_s` seconds."""
        ...


class _SystemClock:
    now_s = staticmethod(time.monotonic)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


SYSTEM_CLOCK: Final[Clock] = _SystemClock()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineOptions:
    """How long a guarded call may take with all its attempts and pauses.

    Args:
        total_s: limit in seconds; inf: only the caller's deadline applies.

    Raises:
        ConfigurationError: `total_s` is not above 0.
    """

    total_s: float = 30.0

    def __post_init__(self) -> None:
        require((self.total_s > 0, "total_s of a deadline must be above 0"))


class DeadlineScope:
    """The limits of one running call, narrowed to those of the outer calls; open until `close`.

    Args:
        until_s: monotonic time after which no new work is started.
        is_retrying: whether the call is retried when it fails.
    """

    __slots__ = ("is_open", "is_retrying", "outer", "until_s")
    is_open: bool
    is_retrying: bool
    until_s: float

    def __init__(self, until_s: float, is_retrying: bool) -> None:
        outer: DeadlineScope | None = current_deadline.get()
        if outer is not None and outer.is_open:
            until_s = min(until_s, outer.until_s)
            is_retrying = is_retrying or outer.is_retrying
        else:
            outer = None
        self.outer = outer
        self.until_s = until_s
        self.is_retrying = is_retrying
        self.is_open = True
        current_deadline.set(self)

    @property
    def is_outer_retrying(self) -> bool:
        """Return whether an outer call is retried when it fails."""
        return self.outer is not None and self.outer.is_retrying

    def close(self) -> None:
        """Restore the outer scope; tasks that still hold this one are no longer limited."""
        self.is_open = False
        # Not by a ContextVar token, which is invalid in the context in which a generator is closed. Without an outer
        # scope the closed one may stay: it limits nothing.
        if self.outer is not None:
            current_deadline.set(self.outer)


current_deadline: ContextVar[DeadlineScope | None] = ContextVar("forge_deadline", default=None)


@contextmanager
def deadline(total_s: float, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[None]:
    """Limit all guarded calls inside the block together.

    Args:
        total_s: seconds from now, capped by the outer deadline.
        clock: the clock of the guards inside.
    """
    scope = DeadlineScope(clock.now_s() + total_s, False)
    try:
        yield
    finally:
        scope.close()


def remaining_s(*, clock: Clock = SYSTEM_CLOCK) -> float:
    """Return the remaining seconds of the current deadline, inf without one; usable as the timeout of an SDK.

    Args:
        clock: the clock of the surrounding guards.
    """
    scope = current_deadline.get()
    return math.inf if scope is None or not scope.is_open else max(0.0, scope.until_s - clock.now_s())
