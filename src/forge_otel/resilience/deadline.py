"""The total deadline of a call, shared with everything that the call calls.

A scope is opened around each guarded call and found through a ContextVar, so that a guard inside a guard, a task that
it starts, or an SDK that is given `remaining_s` as its time limit, never gets more time than whoever waits for it has
left. A deadline refuses to begin what cannot end in time; what interrupts a running call is the attempt timeout.

Tasks may outlive the call that started them and keep its context, so a closed scope no longer limits anybody.
"""

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from forge_otel.errors import ConfigurationError

__all__ = ["SYSTEM_CLOCK", "Clock", "DeadlineOptions", "Scope", "current_scope", "deadline", "remaining_s"]


class Clock(Protocol):
    """Time as guards see it; `forge_otel.testing.clock.ManualClock` stands still until it is told to go on."""

    def now_s(self) -> float:
        """Return monotonic seconds."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds."""
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
        total_s: seconds; inf: as long as the caller has.

    Raises:
        ConfigurationError: it is not above 0.
    """

    total_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.total_s > 0:
            raise ConfigurationError(["total_s of a deadline must be above 0"])


class Scope:
    """The limits of one running call, narrowed to those of the calls around it; open from its making to `close`.

    Args:
        until_s: monotonic time after which nothing new is begun.
        is_retrying: whether the call is tried again when it fails.
    """

    __slots__ = ("is_open", "is_retrying", "outer", "until_s")
    is_open: bool
    is_retrying: bool
    until_s: float

    def __init__(self, until_s: float, is_retrying: bool) -> None:
        outer: Scope | None = current_scope.get()
        if outer is not None and outer.is_open:
            until_s = min(until_s, outer.until_s)
            is_retrying = is_retrying or outer.is_retrying
        else:
            outer = None
        self.outer = outer
        self.until_s = until_s
        self.is_retrying = is_retrying
        self.is_open = True
        current_scope.set(self)

    @property
    def is_outer_retrying(self) -> bool:
        """Whether a call around this one is tried again when it fails."""
        return self.outer is not None and self.outer.is_retrying

    def close(self) -> None:
        """Give the outer scope back; tasks that still hold this one are free."""
        self.is_open = False
        # A closed scope may as well stay where there is no outer one. Not a token: it could not be given back in the
        # context in which a generator is closed.
        if self.outer is not None:
            current_scope.set(self.outer)


current_scope: ContextVar[Scope | None] = ContextVar("forge_scope", default=None)


@contextmanager
def deadline(total_s: float, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[None]:
    """Give everything inside the block `total_s` seconds together, or what the outer deadline leaves.

    Args:
        total_s: seconds from now.
        clock: the clock of the guards inside.
    """
    scope = Scope(clock.now_s() + total_s, False)
    try:
        yield
    finally:
        scope.close()


def remaining_s(*, clock: Clock = SYSTEM_CLOCK) -> float:
    """Return the seconds that the running call has left, inf without a deadline; good as an SDK's own time limit.

    Args:
        clock: the clock of the guards around.
    """
    scope = current_scope.get()
    return math.inf if scope is None or not scope.is_open else max(0.0, scope.until_s - clock.now_s())
