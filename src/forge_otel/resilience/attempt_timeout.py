"""Attempt timeouts that hold even if the called code ignores its cancellation.

`asyncio.timeout` cancels the called code and then waits for its clean-up, which took 4 s of a 2 s limit against a
silent server (SQLAlchemy with asyncpg). Here an attempt runs in its own task, with a copy of the caller's context; a
late task is cancelled and abandoned. Abandoned tasks are counted and bounded, and their errors are consumed.

`AttemptTimeout` limits one attempt of a guarded call, `Chunks` each chunk of a guarded stream.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from forge_otel._internal.checks import require
from forge_otel._internal.tasks import abandon
from forge_otel.errors import Overloaded, ServiceTimeout
from forge_otel.resilience.event_loop_lag import LagAwareTimeout, LoopLagMonitor

__all__ = ["STREAM_END", "AbandonReason", "AttemptTimeout", "Chunks", "TimeoutOptions", "awaited"]

T = TypeVar("T")
AbandonReason = Literal["timed_out", "cancelled"]

STREAM_END: Final[Any] = object()
"""Returned after the last chunk of a stream."""

_CLOSE_TIMEOUT_S: Final = 1.0
# A timer that fires later than this shows that the event loop stalled, not that the service was slow.
_STALL_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutOptions:
    """How long one attempt may take.

    Args:
        attempt_s: limit in seconds, capped by the deadline; None: attempts are awaited in place, without the cost of a
            task, and cannot be interrupted.
        max_abandoned: number of abandoned attempts that have not ended from which new attempts are rejected.
        is_cancelled_in_place: attempts are awaited in place and cancelled there, which saves the task. Only for clients
            that end at once when they are cancelled, because the caller waits for that.

    Raises:
        ConfigurationError: with every fault at once.
    """

    attempt_s: float | None = None
    max_abandoned: int = 64
    is_cancelled_in_place: bool = False

    def __post_init__(self) -> None:
        require(
            (
                self.attempt_s is None or self.attempt_s > 0,
                "attempt_s of a timeout must be above 0, or None for no limit",
            ),
            (self.max_abandoned >= 1, "max_abandoned of a timeout must be at least 1"),
        )


class AttemptTimeout:
    """Runs attempts in their own tasks and abandons the ones that take too long.

    Args:
        name: name of the service, for error messages.
        options: the limit.
        loop_lag: measures stalls of the event loop, which extend the limit.
        on_abandon: called with the reason when an attempt is abandoned.
    """

    def __init__(
        self,
        name: str,
        options: TimeoutOptions,
        *,
        loop_lag: LoopLagMonitor,
        on_abandon: Callable[[AbandonReason], None] | None = None,
    ) -> None:
        self.options = options
        self.abandoned = 0
        """Number of abandoned attempts that have not ended."""
        self.late_errors = 0
        """Number of abandoned attempts that ended with an exception."""
        self._name = name
        self._loop_lag = loop_lag
        self._on_abandon = on_abandon

    async def run(
        self, coroutine: Coroutine[Any, Any, T], limit_s: float, *, context: contextvars.Context | None = None
    ) -> T:
        """Run `coroutine` in a task within the attempt timeout.

        Args:
            coroutine: the attempt.
            limit_s: a further limit in seconds, such as the remaining deadline.
            context: context of the task; None: a copy of the caller's.

        Raises:
            ServiceTimeout: the attempt took too long.
            Overloaded: too many abandoned attempts have not ended.
        """
        if self.abandoned >= self.options.max_abandoned:
            coroutine.close()
            raise Overloaded(
                f"{self.abandoned} abandoned calls to {self._name!r} have not ended, which is the limit; "
                "new calls are rejected until some of them end"
            )
        limit_s = self._capped(limit_s)
        loop = asyncio.get_running_loop()
        due_s = loop.time() + limit_s
        task = loop.create_task(coroutine, context=context)
        try:
            await asyncio.wait([task], timeout=limit_s)
            stalled_s = loop.time() - due_s
            if not task.done() and stalled_s > _STALL_S:
                # Nothing was sent or read in a stall: its time is given back once.
                await asyncio.wait([task], timeout=min(stalled_s, limit_s))
        except asyncio.CancelledError:
            self._abandon(task, "cancelled")
            raise
        if not task.done():
            self._abandon(task, "timed_out")
            raise self._timed_out(limit_s)
        try:
            return task.result()
        finally:
            # The traceback of the task's exception holds this frame; without `del` they form a reference cycle.
            del task

    async def run_in_place(self, awaitable: Awaitable[T], limit_s: float) -> T:
        """Await `awaitable` within the attempt timeout, in the caller's task.

        Args:
            awaitable: the attempt; it must end at once when it is cancelled.
            limit_s: a further limit in seconds, such as the remaining deadline.

        Raises:
            ServiceTimeout: the attempt took too long.
        """
        limit_s = self._capped(limit_s)
        timeout = LagAwareTimeout(limit_s, self._loop_lag)
        try:
            return await awaitable
        except asyncio.CancelledError as exc:
            if not timeout.uncancel():
                raise
            self._notify("timed_out")
            raise self._timed_out(limit_s) from exc
        finally:
            timeout.close()

    def _capped(self, limit_s: float) -> float:
        attempt_s = self.options.attempt_s
        return limit_s if attempt_s is None else min(attempt_s, limit_s)

    def _timed_out(self, limit_s: float) -> ServiceTimeout:
        return ServiceTimeout(f"{self._name!r} did not respond within {limit_s:.3g} s")

    def _abandon(self, task: asyncio.Task[Any], reason: AbandonReason) -> None:
        self.abandoned += 1
        task.add_done_callback(self._on_late_end)
        abandon(task)
        self._notify(reason)

    def _on_late_end(self, task: asyncio.Task[Any]) -> None:
        self.abandoned -= 1
        if not task.cancelled() and task.exception() is not None:
            self.late_errors += 1

    def _notify(self, reason: AbandonReason) -> None:
        if self._on_abandon is not None:
            self._on_abandon(reason)


class Chunks:
    """A stream read chunk by chunk, each within the attempt timeout.

    Args:
        stream: the stream; closed with its `aclose` or `close`.
        timeout: limits each chunk; without `attempt_s` chunks are awaited in place.
    """

    def __init__(self, stream: AsyncIterable[Any], timeout: AttemptTimeout) -> None:
        self._iterator: AsyncIterator[Any] = aiter(stream)
        self._timeout = timeout
        self._is_in_place = timeout.options.attempt_s is None
        # All chunks are read in one context: a generator could not close a span that it opened in another one.
        self._context = contextvars.copy_context()

    async def first(self) -> Any:
        """Return the first chunk or `STREAM_END`; the surrounding attempt limits the time."""
        if self._is_in_place:
            return await anext(self._iterator, STREAM_END)
        return await asyncio.create_task(self._next(), context=self._context)

    async def next(self, limit_s: float) -> Any:
        """Return the next chunk or `STREAM_END`.

        Args:
            limit_s: remaining seconds for the whole stream.

        Raises:
            ServiceTimeout: the chunk took too long.
        """
        if self._is_in_place:
            return await anext(self._iterator, STREAM_END)
        return await self._timeout.run(self._next(), limit_s, context=self._context)

    async def close(self) -> None:
        """Close the stream; its errors are suppressed, because nothing more is read from it."""
        close = getattr(self._iterator, "aclose", None) or getattr(self._iterator, "close", None)
        if close is None:
            return
        with suppress(Exception):
            if self._is_in_place:
                await close()
            else:
                await self._timeout.run(awaited(close), _CLOSE_TIMEOUT_S, context=self._context)

    async def _next(self) -> Any:
        return await anext(self._iterator, STREAM_END)


async def awaited(function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
    """Call and await `function`; makes a coroutine of any awaitable, because a task needs one."""
    return await function(*args, **kwargs)
