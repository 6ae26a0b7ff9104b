"""Time limits that hold: whoever waits goes on when the time is over, whatever the called code does about it.

`asyncio.timeout` cancels and then waits for the callee's clean-up, which for a silent server took 4 s of a 2 s limit
(SQLAlchemy with asyncpg). Here the call runs in a task of its own, with a copy of the caller's context; when its time
is over it is cancelled and left to itself. What it still says is looked at and counted, and how many calls may be left
like that is bounded.

`AttemptTimeout` limits one attempt of a guarded call, `Chunks` each chunk of a guarded stream.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from forge_otel.errors import ConfigurationError, Overloaded, ServiceTimeout
from forge_otel.resilience.lag_aware_timeout import LagAwareTimeout

__all__ = ["END", "AttemptTimeout", "Chunks", "TimeoutOptions", "awaited"]

T = TypeVar("T")

END: Final[Any] = object()
"""What comes after the last chunk of a stream."""

_CLOSE_S: Final = 1.0
# A timer that rings later than this says that the event loop was held up, not that the service was slow.
_LATE_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutOptions:
    """How long one attempt may take.

    Args:
        attempt_s: seconds, less where the total deadline leaves less; None: an attempt is awaited in place, which costs
            no task but cannot be interrupted.
        max_abandoned: calls that were given up and have not ended yet; with so many, new ones are refused.
        is_cancelled_in_place: an attempt is awaited in place and cancelled there when its time is over, which saves the
            task; only for clients that end at once when they are cancelled, because the caller waits for that.

    Raises:
        ConfigurationError: with every fault at once.
    """

    attempt_s: float | None = None
    max_abandoned: int = 64
    is_cancelled_in_place: bool = False

    def __post_init__(self) -> None:
        faults = []
        if self.attempt_s is not None and not self.attempt_s > 0:
            faults.append("attempt_s of a timeout must be above 0, or None for no limit")
        if self.max_abandoned < 1:
            faults.append("max_abandoned of a timeout must be at least 1")
        if faults:
            raise ConfigurationError(faults)


class AttemptTimeout:
    """Runs attempts in tasks of their own and gives up those that take too long.

    Args:
        name: the service's name, for the sentence of the error.
        options: how long an attempt may take.
        notify: told `"timed_out"` or `"cancelled"` when a call is given up.
    """

    def __init__(self, name: str, options: TimeoutOptions, *, notify: Callable[[str], None]) -> None:
        self.options = options
        self.late_errors = 0
        """Calls that were given up and ended with an exception since."""
        self._name = name
        self._notify = notify
        # Holds the tasks too: the event loop keeps only weak references.
        self._abandoned: set[asyncio.Task[Any]] = set()

    @property
    def abandoned(self) -> int:
        """Calls that were given up and have not ended yet."""
        return len(self._abandoned)

    async def run(
        self, coroutine: Coroutine[Any, Any, T], rest_s: float, *, context: contextvars.Context | None = None
    ) -> T:
        """Await `coroutine` for as long as an attempt may take.

        Args:
            coroutine: is run in a task.
            rest_s: seconds, if that is less.
            context: what the task runs in; a copy of the caller's where it is left out.

        Raises:
            ServiceTimeout: the time is over.
            Overloaded: too many calls were given up and have not ended yet.
        """
        if len(self._abandoned) >= self.options.max_abandoned:
            coroutine.close()
            raise Overloaded(
                f"{len(self._abandoned)} calls to {self._name!r} were given up and have not ended yet; "
                "no more are begun until some have"
            )
        limit_s = rest_s if self.options.attempt_s is None else min(self.options.attempt_s, rest_s)
        loop = asyncio.get_running_loop()
        due_s = loop.time() + limit_s
        task = loop.create_task(coroutine, context=context)
        try:
            await asyncio.wait([task], timeout=limit_s)
            held_up_s = loop.time() - due_s
            if not task.done() and held_up_s > _LATE_S:
                # While the loop stood still nothing was sent or read: that time was not the service's.
                await asyncio.wait([task], timeout=min(held_up_s, limit_s))
        except asyncio.CancelledError:
            self._abandon(task, "cancelled")
            raise
        if not task.done():
            self._abandon(task, "timed_out")
            raise ServiceTimeout(f"{self._name!r} did not answer within {limit_s:.3g} s")
        try:
            return task.result()
        finally:
            # The traceback of its exception holds this frame, which must not hold the exception.
            del task

    async def run_in_place(self, awaitable: Awaitable[T], rest_s: float) -> T:
        """Await `awaitable` for as long as an attempt may take, in the caller's own task.

        Args:
            awaitable: ends at once when it is cancelled.
            rest_s: seconds, if that is less.

        Raises:
            ServiceTimeout: the time is over.
        """
        limit_s = rest_s if self.options.attempt_s is None else min(self.options.attempt_s, rest_s)
        bound = LagAwareTimeout(limit_s)
        try:
            return await awaitable
        except asyncio.CancelledError as exc:
            if not bound.withdraw():
                raise
            self._notify("timed_out")
            raise ServiceTimeout(f"{self._name!r} did not answer within {limit_s:.3g} s") from exc
        finally:
            bound.end()

    def _abandon(self, task: asyncio.Task[Any], why: str) -> None:
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._ended)
        self._notify(why)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        # Looked at, so that nobody reports it as never retrieved: the caller has been answered.
        if not task.cancelled() and task.exception() is not None:
            self.late_errors += 1


class Chunks:
    """A stream that is read chunk by chunk, each in its time.

    Args:
        stream: what is read; closed with `close`, by its `aclose` or `close`.
        timeout: limits each chunk, unless its options have no limit: then chunks are awaited in place.
    """

    def __init__(self, stream: AsyncIterable[Any], timeout: AttemptTimeout) -> None:
        self._iterator: AsyncIterator[Any] = aiter(stream)
        self._timeout = timeout
        # All chunks are made in one context, or a span that a generator opens could not be closed by it.
        self._context = contextvars.copy_context()

    async def first(self) -> Any:
        """Return the first chunk, or `END`; the attempt around it limits the time."""
        if self._timeout.options.attempt_s is None:
            return await anext(self._iterator, END)
        return await asyncio.create_task(self._next(), context=self._context)

    async def next(self, rest_s: float) -> Any:
        """Return the next chunk, or `END`.

        Args:
            rest_s: seconds that are left for the whole stream.

        Raises:
            ServiceTimeout: it takes too long.
        """
        if self._timeout.options.attempt_s is None:
            return await anext(self._iterator, END)
        return await self._timeout.run(self._next(), rest_s, context=self._context)

    async def close(self) -> None:
        """End the stream; how one ends that nobody reads any more is nobody's concern."""
        close = getattr(self._iterator, "aclose", None) or getattr(self._iterator, "close", None)
        if close is None:
            return
        with suppress(Exception):
            if self._timeout.options.attempt_s is None:
                await close()
            else:
                await self._timeout.run(awaited(close), _CLOSE_S, context=self._context)

    async def _next(self) -> Any:
        return await anext(self._iterator, END)


async def awaited(function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
    """Call and await `function`: a coroutine of any awaitable, as a task needs one."""
    return await function(*args, **kwargs)
