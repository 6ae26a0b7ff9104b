"""Elects the one process that runs a pipeline for a key, by leases with fencing numbers.

Each request to the lease backend is guarded and may fail: this process then runs the pipeline on its own, and the
record says `<service>:alone`. The holder renews its lease. A killed holder is replaced when its lease expires; a holder
that was paused beyond that still answers its own callers, but its write is refused after a takeover.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import orjson

from forge_otel import errors
from forge_otel._internal.tasks import TaskSet
from forge_otel.context import current_generation
from forge_otel.errors import CircuitOpen, ForgeError, GenerationFailed, GenerationTimeout
from forge_otel.layers.single_flight.run import Run, RunOutcome
from forge_otel.names import Metric
from forge_otel.resilience.time_budget import budgeted, current_time_budget, start_detached
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import CacheSlot, Event, Lease, LeaseHeld, Leases, Reply, WaitForChange

__all__ = ["LeaseElection", "encode_failure"]

_logger = logging.getLogger(__name__)

Guarded = Callable[..., Awaitable[Any]]

COLLAPSED: Final = "collapsed"
# A wake-up may be lost, so waiting processes also poll.
_POLL_S: Final = 2.0
# Without it the waiters would claim a moment before the lease expires, and wait for another full poll.
_AFTER_EXPIRY_S: Final = 0.02
_REPORT_INTERVAL_S: Final = 0.05
# A lease survives one failed renewal.
_RENEWALS_PER_TTL: Final = 3
_CLAIM_CONCURRENCY: Final = 8
# Progress events must not take the connections that leases need.
_APPEND_CONCURRENCY: Final = 2
_RELEASE_RETRY_S: Final = 0.5
# A process that cannot claim in time runs the pipeline on its own.
_CLAIM_QUEUE_S: Final = 0.25
_MAX_MESSAGE_CHARS: Final = 500
# Only these keep their message across processes: the message of any other error may hold secrets.
_PORTABLE_ERRORS: Final = {
    kind.code: kind
    for kind in (
        *(errors.BadRequest, errors.NotFound, errors.PayloadTooLarge),
        *(errors.ServiceUnavailable, errors.Overloaded, errors.ServiceTimeout, GenerationTimeout),
    )
}


class LeaseElection:
    """Acquires, renews and releases the leases of runs.

    Args:
        leases: the backend that all processes share.
        entry_key: maps the key of a call to the key of its cache entry.
        guard: `await guard(function, *args, **kwargs)` calls `leases` within its deadline and breaker.
        instruments: receive takeovers and fenced writes.
        lease_ttl_s: seconds until a lease expires that is not renewed.
        timeout_s: seconds that a run waits for another process.
    """

    def __init__(
        self,
        leases: Leases,
        *,
        entry_key: Callable[[str], str],
        guard: Guarded,
        instruments: Instruments,
        lease_ttl_s: float,
        timeout_s: float,
    ) -> None:
        self._leases = leases
        self._entry_key = entry_key
        self._guard = guard
        self._instruments = instruments
        self._lease_ttl_s = lease_ttl_s
        self._timeout_s = timeout_s
        self._background: TaskSet[None] = TaskSet()
        self._release_retries: TaskSet[None] = TaskSet()
        self._claim_slots = asyncio.Semaphore(_CLAIM_CONCURRENCY)
        self._append_slots = asyncio.Semaphore(_APPEND_CONCURRENCY)
        self._request_within_budget = budgeted(self._request)

    async def acquire(self, run: Run, cache_slot: CacheSlot) -> Lease | RunOutcome | None:
        """Acquire the lease of a run, or wait for the process that holds it.

        Returns:
            The lease, the outcome of the other process, or None if the backend is unavailable.
        """
        key, has_waited, budget = self._entry_key(run.call.key), False, current_time_budget.get()
        with self._leases.listen(key) as wait:
            while True:
                held = await self._claim(key, run)
                if isinstance(held, Lease):
                    return await self._recheck(held, run, cache_slot, has_waited=has_waited)
                if held is None:
                    return None
                if held.failure is not None:
                    return RunOutcome(error=_decode_failure(held.failure), is_remote=True)
                has_waited = True
                if not await self._wait(wait, held, run):
                    return RunOutcome(error=_timed_out(run), is_remote=True)
                if budget is not None:
                    # The caller now waits for a generation, not for the cache: polling must not use up its budget.
                    budget.reset()
                reply = await self._lookup(key, run, cache_slot)
                if reply is not None:
                    return RunOutcome(reply=reply, is_remote=True)

    @asynccontextmanager
    async def renewing(self, lease: Lease, run: Run) -> AsyncIterator[None]:
        """Renew the lease and publish the run's events inside the block; `release` is separate."""
        renewal = asyncio.create_task(self._renew(lease))
        self._background.hold(asyncio.create_task(self._publish(lease, run)))
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])

    async def commit(self, lease: Lease, value: bytes, ttl_s: float | None) -> bool | None:
        """Write the sealed entry unless another process took over; see `forge_otel.types.CacheSlot.store`."""
        try:
            is_newest = await self._guard(self._leases.commit, lease, value, ttl_s=ttl_s)
        except Exception:
            if self._leases.writes_store:
                raise
            return None
        if not is_newest:
            self._instruments.add(Metric.FLIGHT_FENCED, 1)
            _logger.warning("cache write refused: the lease expired and another process took over")
            return False
        return True if self._leases.writes_store else None

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Release the lease; after a failure, retry in the background until the lease expires."""
        if not await self._try_release(lease, failure):
            self._release_retries.hold(start_detached(self._retry_release(lease, failure)))

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return the events that other processes published for a call; empty if the backend is unavailable."""
        try:
            found: list[Event] = await self._guard(self._leases.events, self._entry_key(key), after)
        except Exception:
            return []
        return found

    async def wait_for_change(self, key: str, timeout_s: float) -> None:
        """Wait until another process may have published something for a call, for at most `timeout_s`."""
        with self._leases.listen(self._entry_key(key)) as wait:
            await wait(timeout_s)

    async def close(self, timeout_s: float) -> None:
        """Stop retrying releases, and wait up to `timeout_s` for pending reports and releases."""
        for task in self._release_retries:
            task.cancel()
        if self._background:
            _, unfinished = await asyncio.wait(list(self._background), timeout=timeout_s)
            for task in unfinished:
                task.cancel()

    async def _claim(self, key: str, run: Run) -> Lease | LeaseHeld | None:
        # Hundreds of different keys may miss at the same moment: queued here, none exceeds the guard's deadline.
        try:
            async with asyncio.timeout(_CLAIM_QUEUE_S):
                await self._claim_slots.acquire()
        except TimeoutError:
            return None
        try:
            held: Lease | LeaseHeld = await self._request_within_budget(key, time.monotonic() - run.created_s)
        except Exception:
            generation = current_generation.get()
            if generation is not None:
                generation.record_degraded(f"{self._leases.service}:alone")
            return None
        finally:
            self._claim_slots.release()
        return held

    async def _request(self, key: str, waited_s: float) -> Lease | LeaseHeld:
        token = secrets.token_hex(16)
        claim = partial(self._leases.acquire, ttl_s=self._lease_ttl_s, waited_s=waited_s)
        try:
            held: Lease | LeaseHeld = await self._guard(claim, key, token)
        # Nothing was sent, so there is no lease to release.
        except CircuitOpen:
            raise
        except BaseException:
            # The backend may have granted the lease although its response was lost; other processes would wait for it.
            self._spawn(self.release(Lease(key=key, token=token, fence=0)))
            raise
        return held

    async def _recheck(self, lease: Lease, run: Run, cache_slot: CacheSlot, *, has_waited: bool) -> Lease | RunOutcome:
        # The previous holder may have finished between this caller's lookup and its claim.
        try:
            reply = await self._lookup(lease.key, run, cache_slot)
        except BaseException:
            self._spawn(self.release(lease))
            raise
        if reply is not None:
            self._spawn(self.release(lease))
            return RunOutcome(reply=reply, is_remote=True)
        if has_waited:
            self._instruments.add(Metric.FLIGHT_TAKEOVERS, 1)
            _logger.info("generation taken over from another process, which did not finish it")
        return lease

    async def _lookup(self, key: str, run: Run, cache_slot: CacheSlot) -> Reply | None:
        if self._leases.writes_store:
            return await cache_slot.lookup()
        try:
            value = await self._guard(self._leases.fetch, key, within_s=time.monotonic() - run.created_s)
        except Exception:
            return None
        return None if value is None else await cache_slot.lookup(value)

    async def _wait(self, wait: WaitForChange, held: LeaseHeld, run: Run) -> bool:
        """Wait for a wake-up, the expiry of the lease or the next poll; return whether time was left."""
        left_s = run.created_s + self._timeout_s - time.monotonic()
        if left_s <= 0:
            return False
        await wait(min(_POLL_S, held.remaining_s + _AFTER_EXPIRY_S, left_s))
        return True

    async def _renew(self, lease: Lease) -> None:
        is_newest = True
        while is_newest:
            await asyncio.sleep(self._lease_ttl_s / _RENEWALS_PER_TTL)
            with suppress(Exception):
                # The next renewal repeats a failed one.
                is_newest = await self._guard(self._leases.renew, lease, ttl_s=self._lease_ttl_s)

    async def _publish(self, lease: Lease, run: Run) -> None:
        sent = 0
        while True:
            # Read before the events are sliced: a closed log gets no more events, so none is missed.
            is_closed = run.event_log.is_closed
            batch = run.event_log.events[sent:]
            sent += len(batch)
            if batch:
                await self._append(lease.key, batch)
            if is_closed:
                return
            await asyncio.sleep(_REPORT_INTERVAL_S)
            await run.event_log.wait_for_more(sent)

    async def _append(self, key: str, events: Sequence[Event]) -> None:
        with suppress(Exception):
            async with self._append_slots:
                await self._guard(self._leases.append, key, events)

    async def _try_release(self, lease: Lease, failure: bytes | None) -> bool:
        try:
            async with self._claim_slots:
                await self._guard(self._leases.release, lease, failure=failure)
        except Exception:
            return False
        return True

    async def _retry_release(self, lease: Lease, failure: bytes | None) -> None:
        # After an outage the next caller would otherwise wait for a holder that ended long ago.
        until_s = time.monotonic() + self._lease_ttl_s
        while time.monotonic() < until_s:
            await asyncio.sleep(_RELEASE_RETRY_S)
            if await self._try_release(lease, failure):
                return

    def _spawn(self, step: Coroutine[Any, Any, None]) -> None:
        self._background.hold(start_detached(step))


def encode_failure(error: BaseException) -> bytes | None:
    """Serialise an error for callers in other processes; None if these should run the pipeline themselves."""
    # A cancellation concerns this process, and a personal error concerns its caller only.
    if not isinstance(error, Exception) or (isinstance(error, ForgeError) and error.is_personal):
        return None
    facts = {"error_type": type(error).__name__}
    if type(error) in _PORTABLE_ERRORS.values() and isinstance(error, ForgeError):
        facts |= {"code": error.code, "message": str(error)[:_MAX_MESSAGE_CHARS]}
    return orjson.dumps(facts, default=str)


def _decode_failure(failure: bytes) -> ForgeError:
    try:
        facts = orjson.loads(failure)
        error_type, code, message = (str(facts.get(name, "")) for name in ("error_type", "code", "message"))
    except (ValueError, AttributeError):
        error_type, code, message = "unknown", "", ""
    if code in _PORTABLE_ERRORS:
        return _PORTABLE_ERRORS[code](message)
    return GenerationFailed(
        f"the generation that this call waited for failed in another process ({error_type[:64]}); send it again",
        error_type=error_type[:64],
    )


def _timed_out(run: Run) -> GenerationTimeout:
    return GenerationTimeout(
        f"the pipeline {run.call.pipeline!r} was running in another process and did not finish in time; try again"
    )
