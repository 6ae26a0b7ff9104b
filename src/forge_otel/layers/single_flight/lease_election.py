"""How a flight agrees with those of other processes on who generates.

Every step is guarded and may fail: then this process goes on by itself, as if it were alone, and the record says so.
A holder that renews its lease keeps it; one that was killed is replaced when it ends; one that was paused past its end
goes on and answers its own callers, but its entry is refused if somebody took over meanwhile.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import orjson

from forge_otel import errors
from forge_otel.context import current_generation
from forge_otel.errors import CircuitOpen, ForgeError, GenerationFailed, GenerationTimeout
from forge_otel.layers.single_flight.run import Run, RunOutcome
from forge_otel.names import Metric
from forge_otel.resilience.time_budget import behind, budgeted, current_patience
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import CacheSlot, Event, Lease, LeaseHeld, Leases, Reply, Wakeup

__all__ = ["LeaseElection", "failure_of"]

_logger = logging.getLogger(__name__)

Guarded = Callable[..., Awaitable[Any]]

COLLAPSED: Final = "collapsed"
_POLL_S: Final = 2.0
# After the end of a lease those who wait come one after another, and the first to come finds it free.
_AFTER_END_S: Final = 0.02
_REPORT_EVERY_S: Final = 0.05
_RENEWALS: Final = 3
_AT_ONCE: Final = 8
_TELL_AT_ONCE: Final = 2
_GIVE_BACK_EVERY_S: Final = 0.5
_QUEUE_S: Final = 0.25
_MAX_MESSAGE_CHARS: Final = 500
# What those who wait elsewhere are told as it is; all else only by its type, because messages may carry secrets.
_TOLD: Final = {
    kind.code: kind
    for kind in (
        *(errors.BadRequest, errors.NotFound, errors.PayloadTooLarge),
        *(errors.ServiceUnavailable, errors.Overloaded, errors.ServiceTimeout, GenerationTimeout),
    )
}


class LeaseElection:
    """Claims, keeps and gives back leases.

    Args:
        leases: where the processes meet.
        entry_key: the key of the store's entry, from the call's.
        guard: `await guard(function, *args, **kwargs)` asks `leases` within its deadline and breaker.
        instruments: where takeovers and refused writes are counted.
        life_s: how long a lease lasts without being renewed.
        timeout_s: how long a flight waits for those of other processes.
    """

    def __init__(
        self,
        leases: Leases,
        *,
        entry_key: Callable[[str], str],
        guard: Guarded,
        instruments: Instruments,
        life_s: float,
        timeout_s: float,
    ) -> None:
        self._leases = leases
        self._entry_key = entry_key
        self._guard = guard
        self._instruments = instruments
        self._life_s = life_s
        self._timeout_s = timeout_s
        self._late: set[asyncio.Task[None]] = set()
        # Of leases that could not be given back.
        self._held_up: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._telling = asyncio.Semaphore(_TELL_AT_ONCE)
        self._ask_patiently = budgeted(self._ask_for)

    async def acquire(self, flight: Run, cache_slot: CacheSlot) -> Lease | RunOutcome | None:
        """Return the lease, or what another process came to; None where nobody can be asked."""
        key, has_waited, patience = self._entry_key(flight.call.key), False, current_patience.get()
        with self._leases.listen(key) as bell:
            while True:
                held = await self._claim(key, flight)
                if isinstance(held, Lease):
                    return await self._check(held, flight, cache_slot, has_waited=has_waited)
                if held is None:
                    return None
                if held.failure is not None:
                    return RunOutcome(error=_error(held.failure), is_remote=True)
                has_waited = True
                if not await self._rest(bell, held, flight):
                    return RunOutcome(error=_too_late(flight), is_remote=True)
                if patience is not None:
                    # It waits for a generation now: looking whether that has ended is not what it waits for.
                    patience.renew()
                reply = await self._look(key, flight, cache_slot)
                if reply is not None:
                    return RunOutcome(reply=reply, is_remote=True)

    @asynccontextmanager
    async def renewing(self, lease: Lease, flight: Run) -> AsyncIterator[None]:
        """Renew the lease and report the flight's events inside the block; the lease is given back by `release`."""
        tasks = [asyncio.create_task(self._renew(lease)), asyncio.create_task(self._report(lease, flight))]
        try:
            yield
        finally:
            tasks[0].cancel()
            tasks[1].add_done_callback(self._late.discard)
            self._late.add(tasks[1])
            await asyncio.wait(tasks[:1])

    async def commit(self, lease: Lease, value: bytes, ttl_s: float | None) -> bool | None:
        """Write the sealed entry, unless somebody took over; see `forge_otel.types.CacheSlot.put`."""
        try:
            is_ours = await self._guard(self._leases.commit, lease, value, ttl_s=ttl_s)
        except Exception:
            if self._leases.is_store:
                raise
            return None
        if not is_ours:
            self._instruments.add(Metric.FLIGHT_FENCED, 1)
            _logger.warning("a late answer is not stored: its lease had ended, and another process took over")
            return False
        return True if self._leases.is_store else None

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Give the lease back; if that fails, it is tried again until it has ended by itself."""
        if not await self._give_back(lease, failure):
            task = behind(self._give_back_late(lease, failure))
            self._held_up.add(task)
            task.add_done_callback(self._held_up.discard)

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return what other processes told of a call's key; nothing where they cannot be asked."""
        try:
            found: list[Event] = await self._guard(self._leases.events, self._entry_key(key), after)
        except Exception:
            return []
        return found

    async def changed(self, key: str, timeout_s: float) -> None:
        """Return when other processes may have told more of a call's key, or after `timeout_s`."""
        with self._leases.listen(self._entry_key(key)) as bell:
            await bell.wait(timeout_s)

    async def close(self, timeout_s: float) -> None:
        """Wait for what is still to be said, and give it up then."""
        for task in self._held_up:
            task.cancel()
        if self._late:
            _, late = await asyncio.wait(list(self._late), timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _claim(self, key: str, flight: Run) -> Lease | LeaseHeld | None:
        try:
            # A herd of different keys comes one after another, so that none is late because of the others.
            async with asyncio.timeout(_QUEUE_S):
                await self._turns.acquire()
        except TimeoutError:
            return None
        try:
            held: Lease | LeaseHeld = await self._ask_patiently(key, time.monotonic() - flight.began_s)
        except Exception:
            generation = current_generation.get()
            if generation is not None:
                generation.record_degraded(f"{self._leases.service}:alone")
            return None
        finally:
            self._turns.release()
        return held

    async def _ask_for(self, key: str, waited_s: float) -> Lease | LeaseHeld:
        token = secrets.token_hex(16)
        claim = partial(self._leases.claim, life_s=self._life_s, waited_s=waited_s)
        try:
            held: Lease | LeaseHeld = await self._guard(claim, key, token)
        except CircuitOpen:
            raise
        except BaseException:
            # It may have been given all the same; nobody should wait for a holder who does not know.
            self._later(self.release(Lease(key=key, token=token, fence=0)))
            raise
        return held

    async def _check(self, lease: Lease, flight: Run, cache_slot: CacheSlot, *, has_waited: bool) -> Lease | RunOutcome:
        """Look once more: the one before may have finished between our look and our claim."""
        try:
            reply = await self._look(lease.key, flight, cache_slot)
        except BaseException:
            self._later(self.release(lease))
            raise
        if reply is not None:
            self._later(self.release(lease))
            return RunOutcome(reply=reply, is_remote=True)
        if has_waited:
            self._instruments.add(Metric.FLIGHT_TAKEOVERS, 1)
            _logger.info("took over a generation that another process did not finish")
        return lease

    async def _look(self, key: str, flight: Run, cache_slot: CacheSlot) -> Reply | None:
        if self._leases.is_store:
            return await cache_slot.find()
        try:
            value = await self._guard(self._leases.fetch, key, within_s=time.monotonic() - flight.began_s)
        except Exception:
            return None
        return None if value is None else await cache_slot.find(value)

    async def _rest(self, bell: Wakeup, held: LeaseHeld, flight: Run) -> bool:
        """Wait for news, or until looking again makes sense; whether there is time left."""
        left_s = flight.began_s + self._timeout_s - time.monotonic()
        if left_s <= 0:
            return False
        await bell.wait(min(_POLL_S, held.rest_s + _AFTER_END_S, left_s))
        return True

    async def _renew(self, lease: Lease) -> None:
        is_newest = True
        while is_newest:
            await asyncio.sleep(self._life_s / _RENEWALS)
            with suppress(Exception):
                is_newest = await self._guard(self._leases.renew, lease, life_s=self._life_s)

    async def _report(self, lease: Lease, flight: Run) -> None:
        sent = 0
        while True:
            # Before the events are taken: after it is over nothing is added.
            is_over = flight.story.is_over
            batch = flight.story.events[sent:]
            sent += len(batch)
            if batch:
                await self._tell(lease.key, batch)
            if is_over:
                return
            await asyncio.sleep(_REPORT_EVERY_S)
            await flight.story.more_than(sent)

    async def _tell(self, key: str, events: Sequence[Event]) -> None:
        with suppress(Exception):
            async with self._telling:
                await self._guard(self._leases.append, key, events)

    async def _give_back(self, lease: Lease, failure: bytes | None) -> bool:
        try:
            async with self._turns:
                await self._guard(self._leases.release, lease, failure=failure)
        except Exception:
            return False
        return True

    async def _give_back_late(self, lease: Lease, failure: bytes | None) -> None:
        """Otherwise the next caller after an outage waits for a holder who has ended long ago."""
        until_s = time.monotonic() + self._life_s
        while time.monotonic() < until_s:
            await asyncio.sleep(_GIVE_BACK_EVERY_S)
            if await self._give_back(lease, failure):
                return

    def _later(self, step: Any) -> None:
        task = behind(step)
        self._late.add(task)
        task.add_done_callback(self._late.discard)


def failure_of(error: BaseException) -> bytes | None:
    """Return what those who wait elsewhere are told of `error`; None where they should try themselves."""
    if not isinstance(error, Exception) or (isinstance(error, ForgeError) and error.is_personal):
        return None
    told = {"error_type": type(error).__name__}
    if type(error) in _TOLD.values() and isinstance(error, ForgeError):
        told |= {"code": error.code, "message": str(error)[:_MAX_MESSAGE_CHARS]}
    return orjson.dumps(told, default=str)


def _error(failure: bytes) -> ForgeError:
    try:
        told = orjson.loads(failure)
        error_type, code, message = (str(told.get(name, "")) for name in ("error_type", "code", "message"))
    except (ValueError, AttributeError):
        error_type, code, message = "unknown", "", ""
    if code in _TOLD:
        return _TOLD[code](message)
    return GenerationFailed(
        f"the generation that this call waited for failed in another process ({error_type[:64]}); send it again",
        error_type=error_type[:64],
    )


def _too_late(flight: Run) -> GenerationTimeout:
    return GenerationTimeout(
        f"the pipeline {flight.call.pipeline!r} was being run by another process and did not finish in time; try again"
    )
