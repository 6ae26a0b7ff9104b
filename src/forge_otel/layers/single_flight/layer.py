"""Single flight: one pipeline run per key, shared by all callers in all processes.

The first caller's run becomes a task of its own, for which every caller with the same key waits.

- A cancelled caller stops waiting; the run continues, even without callers, because its cost is already spent and its
  answer will be cached. It ends with `generation_timeout_s`, or when the forge closes. A run whose first caller left is
  recorded as a generation of its own, so that its cost is recorded.
- A failed run is not repeated: every waiting caller gets its error. An error about the first caller alone
  (`ForgeError.is_personal`, such as a spent budget) starts a new run for the next caller.
- The run inherits the first caller's context and writes to its record, but has no deadline of its own besides
  `generation_timeout_s`.

`forge_otel.layers.single_flight.lease_election` coordinates processes. A pipeline that calls itself with its own key
does not wait for itself.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Final, Self

from opentelemetry import trace

from forge_otel._internal.bounded import BoundedMap
from forge_otel._internal.ids import new_id
from forge_otel.context import Generation, current_generation
from forge_otel.errors import ForgeError, GenerationFailed, GenerationTimeout, ServiceUnavailable
from forge_otel.layers.single_flight.follower import RunFollower
from forge_otel.layers.single_flight.lease_election import COLLAPSED, LeaseElection, encode_failure
from forge_otel.layers.single_flight.progress import EventLog
from forge_otel.layers.single_flight.run import Run, RunOutcome
from forge_otel.names import Attr, Metric
from forge_otel.resilience.deadline import current_deadline, remaining_s
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, CallNext, Lease, Progress, Reply, outcome_of

__all__ = ["SingleFlightLayer"]

OnOrphaned = Callable[[Call, Generation, RunOutcome], Awaitable[None]]

# Callers wait a little longer than the run's own time limit, so that they get its error and not their own.
_TIMEOUT_MARGIN_S: Final = 1.0
# A follower that connects just after the end still gets all events.
_MAX_FINISHED: Final = 64

_ABORTED: Final = RunOutcome(
    error=ServiceUnavailable("the service is closing; send the request again"), is_aborted=True
)
_active_keys: ContextVar[frozenset[str]] = ContextVar("forge_active_keys", default=frozenset())


class SingleFlightLayer:
    """Runs the pipeline once per key and shares the outcome with all callers that wait.

    Args:
        instruments: receive wait times and orphaned runs.
        timeout_s: time limit of a generation in seconds, and so of waiting for one.
        election: coordinates with other processes; None restricts sharing to this process.
        on_orphaned: records a run whose first caller left before the end.
        close_timeout_s: seconds that closing waits for active runs before it cancels them.
    """

    def __init__(
        self,
        *,
        instruments: Instruments,
        timeout_s: float,
        election: LeaseElection | None = None,
        on_orphaned: OnOrphaned | None = None,
        close_timeout_s: float = 1.0,
    ) -> None:
        self._instruments = instruments
        self._timeout_s = timeout_s
        self._election = election
        self._on_orphaned = on_orphaned
        self._close_timeout_s = close_timeout_s
        self._runs: dict[str, Run] = {}
        self._tasks: dict[Run, asyncio.Task[None]] = {}
        self._finished: BoundedMap[str, EventLog] = BoundedMap(_MAX_FINISHED)
        self._follower = RunFollower(self._runs, self._finished, election=election, timeout_s=timeout_s)
        self._last_fence = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        active = list(self._tasks.values())
        if active:
            _, unfinished = await asyncio.wait(active, timeout=self._close_timeout_s)
            for task in unfinished:
                task.cancel()
            if unfinished:
                await asyncio.wait(unfinished, timeout=self._close_timeout_s)
        if self._election is not None:
            await self._election.close(self._close_timeout_s)
        self._finished.clear()

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call` with the shared run of its key.

        Raises:
            GenerationTimeout: the run did not finish in time.
            GenerationFailed: the run failed in another process, or was cancelled.
        """
        # A pipeline that waited for its own run would wait until the time limit.
        if call.key in _active_keys.get() and call.key in self._runs:
            return await call_next(call)
        until_s = time.monotonic() + min(self._timeout_s + _TIMEOUT_MARGIN_S, remaining_s())
        while True:
            run = self._runs.get(call.key)
            is_first = run is None
            if run is None:
                run = self._start(call, call_next)
            outcome = await self._wait(run, until_s, is_first=is_first)
            if outcome.reply is not None:
                return _reply(run, outcome, outcome.reply, is_first=is_first)
            error = outcome.error
            if is_first or not (isinstance(error, ForgeError) and error.is_personal):
                raise _exception_of(outcome, is_first=is_first)

    def running(self) -> list[str]:
        """Return the keys with an active run in this process, including runs that wait for another process."""
        return list(self._runs)

    def follow(self, key: str, *, after: tuple[int, int], wait_s: float) -> AsyncGenerator[Progress, None]:
        """Yield the progress events of the run of `key`; see `RunFollower.follow`."""
        return self._follower.follow(key, after=after, wait_s=wait_s)

    def _start(self, call: Call, call_next: CallNext) -> Run:
        generation = current_generation.get()
        run = Run(call, None if generation is None else generation.shared_copy())
        self._runs[call.key] = run
        context = contextvars.copy_context()
        context.run(current_generation.set, run.generation)
        # Callers that join later may have more time than the first one.
        context.run(current_deadline.set, None)
        context.run(_active_keys.set, _active_keys.get() | {call.key})
        task = asyncio.create_task(self._execute(run, call_next), context=context, name=f"generation {call.key[:8]}")
        self._tasks[run] = task
        task.add_done_callback(partial(self._forget, run))
        return run

    def _forget(self, run: Run, _task: asyncio.Task[None]) -> None:
        del self._tasks[run]
        if not run.outcome.done():
            # A task that is cancelled before its first step never enters `_execute`.
            run.finish(_ABORTED)

    async def _wait(self, run: Run, until_s: float, *, is_first: bool) -> RunOutcome:
        started_s = time.monotonic()
        run.waiters += 1
        try:
            await asyncio.wait([run.outcome], timeout=max(0.0, until_s - started_s))
        finally:
            run.waiters -= 1
            if not run.outcome.done():
                self._leave(run, is_first=is_first)
        if not run.outcome.done():
            raise GenerationTimeout(
                f"the pipeline {run.call.pipeline!r} did not finish within {time.monotonic() - started_s:.3g} s; "
                "it is still running, so ask again for its answer"
            )
        outcome = run.outcome.result()
        if outcome.is_remote or not is_first:
            self._record_wait(run, outcome, time.monotonic() - started_s)
        return outcome

    def _leave(self, run: Run, *, is_first: bool) -> None:
        if is_first:
            run.is_orphaned = True
            generation = current_generation.get()
            if generation is not None:
                generation.detach(new_id())
        if not run.waiters and not run.is_local and self._runs.get(run.call.key) is run:
            # The run only waits for another process, and no caller is left.
            del self._runs[run.call.key]
            self._tasks[run].cancel()

    async def _execute(self, run: Run, call_next: CallNext) -> None:
        outcome, lease, cache_slot = _ABORTED, None, run.call.cache_slot
        try:
            elected = None
            if self._election is not None and cache_slot is not None and cache_slot.is_available:
                elected = await self._election.acquire(run, cache_slot)
            if isinstance(elected, RunOutcome):
                outcome = elected
                return
            lease = elected
            async with AsyncExitStack() as stack:
                run.start(self._next_fence() if lease is None else lease.fence)
                if lease is not None and self._election is not None:
                    await stack.enter_async_context(self._election.renewing(lease, run))
                outcome = await self._call_pipeline(run, call_next, lease)
        except Exception as exc:
            outcome = RunOutcome(error=exc, traceback=exc.__traceback__)
        finally:
            await self._finish(run, outcome, lease)

    async def _call_pipeline(self, run: Run, call_next: CallNext, lease: Lease | None) -> RunOutcome:
        cache_slot = run.call.cache_slot
        try:
            reply = await call_next(run.call)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The pipeline cancelled itself; this task was not cancelled.
            return RunOutcome(error=exc, traceback=exc.__traceback__)
        except BaseException as exc:
            # KeyboardInterrupt, SystemExit and the like belong to the first caller, not to this task.
            return RunOutcome(error=exc, traceback=exc.__traceback__)
        if cache_slot is None:
            return RunOutcome(reply=reply)
        commit = None if lease is None or self._election is None else partial(self._election.commit, lease)
        return RunOutcome(reply=replace(reply, is_stored=await cache_slot.store(reply, commit=commit)))

    async def _finish(self, run: Run, outcome: RunOutcome, lease: Lease | None) -> None:
        key, cache_slot = run.call.key, run.call.cache_slot
        if outcome.reply is None:
            # Released before the outcome is delivered: the next caller's run must not receive the failure of this one.
            failure = None if outcome.error is None or outcome.is_aborted else encode_failure(outcome.error)
            await self._release(lease, failure)
        run.finish(outcome)
        if outcome.reply is not None and cache_slot is not None:
            # Until the entry is written, this run answers new callers with the same key.
            await cache_slot.wait_written()
        if self._runs.get(key) is run:
            del self._runs[key]
        if run.is_local:
            self._finished[key] = run.event_log
        if outcome.reply is not None:
            await self._release(lease, None)
        if run.is_orphaned and run.is_local and run.generation is not None:
            self._instruments.add(Metric.FLIGHT_LEFT, 1)
            if self._on_orphaned is not None:
                reply = None if outcome.reply is None else run.own_copy(outcome.reply)
                await self._on_orphaned(run.call, run.generation, replace(outcome, reply=reply))

    async def _release(self, lease: Lease | None, failure: bytes | None) -> None:
        if lease is not None and self._election is not None:
            await self._election.release(lease, failure=failure)

    def _next_fence(self) -> int:
        # Rises across restarts, and also if the wall clock steps back.
        self._last_fence = max(self._last_fence + 1, time.time_ns() // 1000)
        return self._last_fence

    def _record_wait(self, run: Run, outcome: RunOutcome, waited_s: float) -> None:
        self._instruments.record(
            Metric.FLIGHT_WAIT,
            waited_s,
            {
                Attr.FLIGHT_SCOPE: "other_process" if outcome.is_remote else "process",
                Attr.OUTCOME: "ok" if outcome.error is None else outcome_of(outcome.error),
            },
        )
        if not outcome.is_remote and run.origin.is_valid:
            trace.get_current_span().add_link(run.origin)


def _reply(run: Run, outcome: RunOutcome, reply: Reply, *, is_first: bool) -> Reply:
    # The first caller gets what its pipeline returned, each later caller a copy from before it could be changed.
    if is_first and not outcome.is_remote:
        return reply
    return replace(run.own_copy(reply), source=COLLAPSED)


def _exception_of(outcome: RunOutcome, *, is_first: bool) -> BaseException:
    error = outcome.error
    if error is None or (isinstance(error, asyncio.CancelledError) and not is_first):
        return GenerationFailed("the generation that this call waited for was cancelled", error_type="CancelledError")
    # Every waiting caller raises the same object; without the reset each would add its frames to the traceback.
    return error.with_traceback(outcome.traceback)
