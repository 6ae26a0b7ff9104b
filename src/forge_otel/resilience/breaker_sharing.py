"""What workers tell each other about open breakers: advice, read in the background, never in the call path.

Every worker writes a notice for each service that it leaves alone, and reads those of the others. A notice refuses
nothing here: while it lives, the first failure opens the breaker, instead of five in a row. So neither a dead store
nor one that lies can fail a call that would be answered.

One key a service, written blindly and never deleted: nothing is read in order to be written, and one read sees all
services. Of several workers that leave a service alone the last one's notice stands, which is enough: whoever reads
its own notice there leaves the service alone itself, and when it no longer does, the others' next ones replace it.
The store ends notices, so that the clocks of hosts are not compared.

What a worker does not tell:

* breakers that opened on the word of another worker. Otherwise notices would keep each other alive for as long as any
  call fails now and then, long after the service has come back;
* breakers whose open time is over and that nobody has called since: they know nothing new;
* breakers that are forced by an operator, or only watch;
* the service that carries the notices: who can read that it is away has just been answered by it.
"""

import asyncio
import contextvars
import logging
import math
import re
import secrets
from collections.abc import Awaitable, Sequence
from typing import Final, Self

from forge_otel.errors import ConfigurationError
from forge_otel.keys import digest
from forge_otel.resilience.attempt_timeout import AttemptTimeout, TimeoutOptions, awaited
from forge_otel.resilience.events import GuardState
from forge_otel.resilience.guard import Guards
from forge_otel.types import Store

__all__ = ["BreakerSharing"]

_logger = logging.getLogger(__name__)

_NOTICE: Final = re.compile(rb"[0-9a-f]{32}")
# Store calls that were given up and have not ended: with so many, none is made until some have.
_MAX_ABANDONED: Final = 4


class BreakerSharing:
    """Exchanges notices about open breakers with the other workers, from `async with` to its end; one a process.

    Args:
        store: shared by the workers; already open, and open until the board is left.
        guards: of this process.
        interval_s: seconds between two rounds.
        timeout_s: seconds for each of the two store calls of a round; whatever the store does, nobody waits longer.
        carrier: the name of the guard around calls to `store`; no notices are exchanged about it.

    Raises:
        ConfigurationError: a time is not above 0.
    """

    def __init__(
        self, store: Store, guards: Guards, *, interval_s: float = 2.0, timeout_s: float = 0.25, carrier: str = ""
    ) -> None:
        if not interval_s > 0:
            raise ConfigurationError(["interval_s of a breaker board must be above 0"])
        self._store = store
        self._guards = guards
        self._interval_s = interval_s
        # The slowest two rounds in a row must not leave a gap between their notices.
        self.ttl_s = interval_s + 3 * timeout_s
        """Seconds that a notice lives."""
        self._carrier = carrier
        options = TimeoutOptions(attempt_s=timeout_s, max_abandoned=_MAX_ABANDONED)
        self._limit = AttemptTimeout("the store of breaker notices", options, notify=_ignore)
        self._worker = _new_worker()
        self._noticed: frozenset[str] = frozenset()
        self._fault = ""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # Anew, because a process that was forked since would have the name of its siblings.
        self._worker = _new_worker()
        # An empty context: the span and the deadline of whoever opens the board are not those of its rounds.
        self._task = asyncio.create_task(self._run(), name="breaker board", context=contextvars.Context())
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            # It waits for nothing but timers and tasks that it abandons, so this takes no time.
            task.cancel()
            await asyncio.wait([task])

    async def refresh(self) -> None:
        """Do one round: read the notices of the others, write ours; a store that fails changes nothing."""
        # Each for itself: a value too large to be read goes when it is written over.
        faults = [await _fault_of(self._read()), await _fault_of(self._write())]
        self._note_store(next(filter(None, faults), ""))

    async def _run(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval_s)

    async def _read(self) -> None:
        names = [guard.name for guard in self._states()]
        if not names:
            return
        found = await self._limit.run(awaited(self._store.get, [_key(name) for name in names]), math.inf)
        # All are looked at before anything is changed: a store may answer anything.
        noticed = frozenset(name for name, value in zip(names, found, strict=True) if self._is_of_another(value))
        for name in names:
            # For no longer than the notice can live, because it may be the last one that can be read.
            self._guards.get(name).gate.suspect(self.ttl_s if name in noticed else 0.0)
        for name in sorted(noticed - self._noticed):
            _logger.info(
                "another worker leaves %s alone: here the first failure opens its breaker",
                name,
                extra={"forge": {"service": name}},
            )
        self._noticed = noticed

    async def _write(self) -> None:
        names = [guard.name for guard in self._states() if self._is_first_hand(guard)]
        if names:
            await self._limit.run(self._write_all(names), math.inf)

    async def _write_all(self, names: Sequence[str]) -> None:
        for name in names:
            await self._store.set(_key(name), self._worker, ttl_s=self.ttl_s)

    def _states(self) -> list[GuardState]:
        return [guard for guard in self._guards.states() if guard.name != self._carrier]

    def _is_first_hand(self, guard: GuardState) -> bool:
        is_refusing = guard.mode == "auto" and guard.rejects_for_s > 0
        return is_refusing and not self._guards.get(guard.name).gate.breaker.is_hearsay

    def _is_of_another(self, value: bytes | None) -> bool:
        return value is not None and value != self._worker and _NOTICE.fullmatch(value) is not None

    def _note_store(self, fault: str) -> None:
        """Log a change, not each round; by type only, because messages of drivers carry credentials."""
        if fault and not self._fault:
            _logger.warning("workers cannot tell each other about open breakers (%s); each goes by itself", fault)
        elif self._fault and not fault:
            _logger.info("workers tell each other about open breakers again")
        self._fault = fault


async def _fault_of(step: Awaitable[None]) -> str:
    """Await `step` and return the type of what it raises, or nothing."""
    try:
        await step
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # It was not this task that was cancelled, but something that the store waits for.
        return "CancelledError"
    except Exception as exc:
        return type(exc).__name__
    return ""


def _new_worker() -> bytes:
    return secrets.token_hex(16).encode()


def _key(name: str) -> str:
    # The braces put all of them into one slot of a Redis Cluster, so that one command reads them.
    return f"forge:{{breakers}}:{digest(name)[:32]}"


def _ignore(_why: str) -> None:
    """Nobody counts the board's own calls."""
