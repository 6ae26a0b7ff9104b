"""Hints between workers about open breakers, exchanged in the background through a shared store.

Each worker writes a hint for each service whose breaker it has opened, and reads the hints of its peers. A hint rejects
nothing: while it exists, the local breaker is sensitized and opens at the first failure instead of the fifth. So
neither a dead store nor one with wrong data can fail a call that would succeed.

There is one key for each service, written without a read and never deleted, so that one read covers all services. Of
several workers with an open breaker the last hint remains. That is enough: a worker that reads its own hint has an open
breaker itself, and once it has closed, the next hints of its peers replace it. The store expires hints, so the clocks
of hosts are not compared.

A worker writes no hint about:

* breakers opened by a peer's hint: hints would keep each other alive, long after the service has recovered;
* breakers whose open time is over and that have not been called since: there is nothing new to report;
* breakers that an operator has forced, and breakers in `shadow` mode;
* the service that carries the hints: a worker that can read such a hint has just reached that service.
"""

import asyncio
import logging
import math
import re
import secrets
from collections.abc import Awaitable, Sequence
from typing import Final, Self

from forge_otel._internal.checks import require
from forge_otel._internal.tasks import BackgroundTask
from forge_otel.keys import digest
from forge_otel.resilience.attempt_timeout import AttemptTimeout, TimeoutOptions, awaited
from forge_otel.resilience.events import GuardState
from forge_otel.resilience.guard import Guards
from forge_otel.types import Store

__all__ = ["BreakerSharing"]

_logger = logging.getLogger(__name__)

_HINT: Final = re.compile(rb"[0-9a-f]{32}")
# Abandoned store calls from which no new one is made.
_MAX_ABANDONED: Final = 4


class BreakerSharing:
    """Exchanges hints about open breakers with the other workers inside `async with`; one for each process.

    Args:
        store: shared by the workers; opened before and closed after this.
        guards: the guards of this process.
        interval_s: pause between two rounds in seconds.
        timeout_s: limit of each of the two store calls of a round, in seconds.
        carrier: name of the guard for `store`; its breaker is not shared.

    Raises:
        ConfigurationError: a time is not above 0.
    """

    def __init__(
        self, store: Store, guards: Guards, *, interval_s: float = 2.0, timeout_s: float = 0.25, carrier: str = ""
    ) -> None:
        require((interval_s > 0, "interval_s of breaker sharing must be above 0"))
        self._store = store
        self._guards = guards
        self._interval_s = interval_s
        # Two slow rounds in a row must not leave a gap between their hints.
        self.ttl_s = interval_s + 3 * timeout_s
        """TTL of a hint in seconds."""
        self._carrier = carrier
        options = TimeoutOptions(attempt_s=timeout_s, max_abandoned=_MAX_ABANDONED)
        self._timeout = AttemptTimeout("the store of breaker hints", options, loop_lag=guards.loop_lag)
        self._worker_id = _new_worker_id()
        self._hinted: frozenset[str] = frozenset()
        self._last_fault = ""
        self._task = BackgroundTask(self._run, name="breaker sharing")

    async def __aenter__(self) -> Self:
        # A forked process would share the id that was made before the fork.
        self._worker_id = _new_worker_id()
        self._task.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._task.stop()

    async def refresh(self) -> None:
        """Run one round: read the hints of the peers and write our own; a failing store changes nothing."""
        # Separate steps: a value that is too large to be read is overwritten all the same.
        faults = [await _fault_of(self._read()), await _fault_of(self._write())]
        self._log_store_state(next(filter(None, faults), ""))

    async def _run(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval_s)

    async def _read(self) -> None:
        names = [guard.name for guard in self._states()]
        if not names:
            return
        found = await self._timeout.run(awaited(self._store.get, [_key(name) for name in names]), math.inf)
        # All values are checked before any breaker is changed: the store may return anything.
        hinted = frozenset(name for name, value in zip(names, found, strict=True) if self._is_of_peer(value))
        for name in names:
            # For one TTL only, because this may be the last successful read.
            self._guards.get(name).admission.sensitize(self.ttl_s if name in hinted else 0.0)
        for name in sorted(hinted - self._hinted):
            _logger.info(
                "breaker of %s is open in another worker, the first failure opens it here",
                name,
                extra={"forge": {"service": name}},
            )
        self._hinted = hinted

    async def _write(self) -> None:
        names = [guard.name for guard in self._states() if self._is_reportable(guard)]
        if names:
            await self._timeout.run(self._write_hints(names), math.inf)

    async def _write_hints(self, names: Sequence[str]) -> None:
        for name in names:
            await self._store.set(_key(name), self._worker_id, ttl_s=self.ttl_s)

    def _states(self) -> list[GuardState]:
        return [guard for guard in self._guards.states() if guard.name != self._carrier]

    def _is_reportable(self, guard: GuardState) -> bool:
        is_rejecting = guard.mode == "auto" and guard.rejects_for_s > 0
        return is_rejecting and not self._guards.get(guard.name).admission.breaker.is_opened_by_peer

    def _is_of_peer(self, value: bytes | None) -> bool:
        return value is not None and value != self._worker_id and _HINT.fullmatch(value) is not None

    def _log_store_state(self, fault: str) -> None:
        # Only changes are logged, and only the type of the error: messages of drivers may contain credentials.
        if fault and not self._last_fault:
            _logger.warning("breaker sharing unavailable (%s), workers detect outages independently", fault)
        elif self._last_fault and not fault:
            _logger.info("breaker sharing available again")
        self._last_fault = fault


async def _fault_of(step: Awaitable[None]) -> str:
    """Await `step` and return the type of its error, or an empty string."""
    try:
        await step
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # A task that the store awaits was cancelled, not this one.
        return "CancelledError"
    except Exception as exc:
        return type(exc).__name__
    return ""


def _new_worker_id() -> bytes:
    return secrets.token_hex(16).encode()


def _key(name: str) -> str:
    # The braces put all keys into one slot of a Redis Cluster, so that one command reads them.
    return f"forge:{{breakers}}:{digest(name)[:32]}"
