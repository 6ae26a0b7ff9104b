"""One generation for a key, however many callers in however many processes.

In a process the first caller's generation becomes a task of its own, which all callers of the same key wait for.

- A caller who is cancelled leaves, and the others get their answer. The run goes on also when nobody waits any more:
  its money is spent already, and the next caller finds the answer in the cache. It ends with `generation_timeout_s`,
  or when the forge closes. A run whose first caller left is recorded as a generation of its own, so that its cost is.
- A failed run is not repeated: all who waited get its error, unless that speaks of the first caller alone
  (`ForgeError.is_personal`, such as a spent budget); then one of the others is next.
- The run has the first caller's context, but not its deadline, and notes in the first caller's record.

Across processes see `forge_otel.layers.single_flight.lease_election`. A pipeline that asks for its own key inside
itself is not made to wait for itself.
"""

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, Final, Self

from opentelemetry import trace

from forge_otel._internal.ids import new_id
from forge_otel.context import Generation, current_generation
from forge_otel.errors import ForgeError, GenerationFailed, GenerationTimeout, NotFound, ServiceUnavailable
from forge_otel.layers.single_flight.lease_election import COLLAPSED, LeaseElection, failure_of
from forge_otel.layers.single_flight.run import EventLog, Run, RunOutcome, position_of, progress_of
from forge_otel.names import Attr, Metric
from forge_otel.resilience.deadline import current_scope, remaining_s
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import TERMINAL, Call, CallNext, Event, Lease, Progress, Reply, outcome_of

__all__ = ["SingleFlightLayer"]

OnOrphaned = Callable[[Call, Generation, RunOutcome], Awaitable[None]]

# The run's own limit is the first to be over.
_SLACK_S: Final = 1.0
_REMEMBERED: Final = 64
_LOOK_EVERY_S: Final = 1.0

_GIVEN_UP: Final = RunOutcome(
    error=ServiceUnavailable("the service is closing; send the request again"), is_given_up=True
)
_flying: ContextVar[frozenset[str]] = ContextVar("forge_flying", default=frozenset())


class SingleFlightLayer:
    """The layer that lets one caller generate and all others wait.

    Args:
        instruments: where waits are counted.
        timeout_s: how long a generation may take, and so how long anybody waits.
        agreement: with other processes; None: this one is alone.
        on_left: told how a run ended whose first caller had left.
        grace_s: how long closing waits for running generations before it cancels them.
    """

    def __init__(
        self,
        *,
        instruments: Instruments,
        timeout_s: float,
        agreement: LeaseElection | None = None,
        on_orphaned: OnOrphaned | None = None,
        grace_s: float = 1.0,
    ) -> None:
        self._instruments = instruments
        self._timeout_s = timeout_s
        self._agreement = agreement
        self._on_orphaned = on_orphaned
        self._grace_s = grace_s
        self._flights: dict[str, Run] = {}
        self._tasks: dict[Run, asyncio.Task[None]] = {}
        self._landed: OrderedDict[str, EventLog] = OrderedDict()
        self._last_fence = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        running = list(self._tasks.values())
        if running:
            _, late = await asyncio.wait(running, timeout=self._grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=self._grace_s)
        if self._agreement is not None:
            await self._agreement.close(self._grace_s)
        self._landed.clear()

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call` with the one generation of its key.

        Raises:
            GenerationTimeout: it took too long.
            GenerationFailed: it failed in another process, or was given up.
        """
        if call.key in _flying.get() and call.key in self._flights:
            return await call_next(call)
        until_s = time.monotonic() + min(self._timeout_s + _SLACK_S, remaining_s())
        while True:
            flight = self._flights.get(call.key)
            is_first = flight is None
            if flight is None:
                flight = self._start(call, call_next)
            outcome = await self._wait(flight, until_s, is_first=is_first)
            if outcome.reply is not None:
                return _reply(outcome, outcome.reply, is_first=is_first)
            error = outcome.error
            if is_first or not (isinstance(error, ForgeError) and error.is_personal):
                raise _raisable(outcome, is_first=is_first)

    def running(self) -> list[str]:
        """Return the keys that are being generated or waited for in this process."""
        return list(self._flights)

    async def follow(self, key: str, *, after: tuple[int, int], wait_s: float) -> AsyncGenerator[Progress, None]:
        """Yield what the running generation of `key` does, from its beginning to its end.

        Args:
            key: of the call.
            after: run and number of the last event that is known already.
            wait_s: how long to wait for a generation to begin.

        Raises:
            NotFound: none is running, and none ended a short while ago.
            GenerationTimeout: nothing more was heard of it.
        """
        heard_s, has_begun = time.monotonic(), False
        is_over = False
        while not is_over:
            async with aclosing(self._told(key, after)) as told:
                async for progress in told:
                    heard_s, has_begun, after = time.monotonic(), True, position_of(progress.id)
                    is_over = progress.kind in TERMINAL
                    yield progress
            if is_over:
                return
            silent_s = time.monotonic() - heard_s
            if not has_begun and silent_s >= wait_s:
                raise NotFound("no generation of this request is running; begin one, then follow it")
            if silent_s >= self._timeout_s:
                raise GenerationTimeout("nothing more was heard of the generation; send the request again")
            rest_s = _LOOK_EVERY_S if has_begun else max(0.01, wait_s - silent_s)
            await self._changed(key, min(_LOOK_EVERY_S, rest_s))

    async def _told(self, key: str, after: tuple[int, int]) -> AsyncGenerator[Progress, None]:
        flight = self._flights.get(key)
        story = self._landed.get(key) if flight is None or not flight.is_running else flight.story
        if story is not None and (story.fence, len(story.events)) > after:
            async with aclosing(story.follow(after)) as events:
                async for progress in events:
                    yield progress
            return
        if self._agreement is None:
            return
        for event in await self._remote(self._agreement, key, after):
            yield progress_of(event)

    @staticmethod
    async def _remote(agreement: LeaseElection, key: str, after: tuple[int, int]) -> list[Event]:
        found: list[Event] = []
        while page := await agreement.events(key, (found[-1].fence, found[-1].number) if found else after):
            found += page
        # What an earlier run told is of no interest, but to whoever has heard its beginning.
        newest = max((event.fence for event in found), default=0)
        return [event for event in found if event.fence in {newest, after[0]}]

    async def _changed(self, key: str, timeout_s: float) -> None:
        flight = self._flights.get(key)
        if self._agreement is not None and (flight is None or not flight.is_running):
            await self._agreement.changed(key, timeout_s)
        else:
            await asyncio.sleep(min(timeout_s, 0.05))

    def _start(self, call: Call, call_next: CallNext) -> Run:
        generation = current_generation.get()
        flight = Run(call, None if generation is None else generation.shared_copy())
        self._flights[call.key] = flight
        context = contextvars.copy_context()
        context.run(current_generation.set, flight.generation)
        context.run(current_scope.set, None)
        context.run(_flying.set, _flying.get() | {call.key})
        task = asyncio.create_task(self._fly(flight, call_next), context=context, name=f"flight {call.key[:8]}")
        self._tasks[flight] = task
        task.add_done_callback(partial(self._ended, flight))
        return flight

    def _ended(self, flight: Run, _task: asyncio.Task[None]) -> None:
        del self._tasks[flight]
        if not flight.outcome.done():
            # It was cancelled before its first step.
            flight.end(_GIVEN_UP)

    async def _wait(self, flight: Run, until_s: float, *, is_first: bool) -> RunOutcome:
        started_s = time.monotonic()
        flight.waiters += 1
        try:
            await asyncio.wait([flight.outcome], timeout=max(0.0, until_s - started_s))
        finally:
            flight.waiters -= 1
            if not flight.outcome.done():
                self._leave(flight, is_first=is_first)
        if not flight.outcome.done():
            raise GenerationTimeout(
                f"the pipeline {flight.call.pipeline!r} did not finish within {time.monotonic() - started_s:.3g} s; "
                "it goes on, so ask again for its answer"
            )
        outcome = flight.outcome.result()
        if outcome.is_remote or not is_first:
            self._count(flight, outcome, time.monotonic() - started_s, is_remote=outcome.is_remote)
        return outcome

    def _leave(self, flight: Run, *, is_first: bool) -> None:
        if is_first:
            flight.is_orphaned = True
            generation = current_generation.get()
            if generation is not None:
                generation.detach(new_id())
        if not flight.waiters and not flight.is_running and self._flights.get(flight.call.key) is flight:
            # It only waits for another process, and nobody for it.
            del self._flights[flight.call.key]
            self._tasks[flight].cancel()

    async def _fly(self, flight: Run, call_next: CallNext) -> None:
        outcome, led, cache_slot = _GIVEN_UP, None, flight.call.cache_slot
        try:
            if self._agreement is not None and cache_slot is not None and cache_slot.is_known:
                led = await self._agreement.acquire(flight, cache_slot)
            if isinstance(led, RunOutcome):
                outcome = led
                return
            async with AsyncExitStack() as stack:
                flight.begin(self._fence() if led is None else led.fence)
                if led is not None and self._agreement is not None:
                    await stack.enter_async_context(self._agreement.renewing(led, flight))
                outcome = await self._run(flight, call_next, led)
        except Exception as exc:
            outcome = RunOutcome(error=exc, traceback=exc.__traceback__)
        finally:
            await self._land(flight, outcome, led if isinstance(led, Lease) else None)

    async def _run(self, flight: Run, call_next: CallNext, lease: Lease | None) -> RunOutcome:
        cache_slot = flight.call.cache_slot
        try:
            reply = await call_next(flight.call)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The pipeline was cancelled by itself, not by us.
            return RunOutcome(error=exc, traceback=exc.__traceback__)
        except BaseException as exc:
            # Whatever a pipeline raises is its first caller's, also what is no Exception.
            return RunOutcome(error=exc, traceback=exc.__traceback__)
        if cache_slot is None:
            return RunOutcome(reply=reply)
        commit = None if lease is None or self._agreement is None else partial(self._agreement.commit, lease)
        return RunOutcome(reply=replace(reply, is_stored=await cache_slot.put(reply, commit=commit)))

    async def _land(self, flight: Run, outcome: RunOutcome, lease: Lease | None) -> None:
        is_failure = outcome.error is not None and not outcome.is_given_up
        failure = failure_of(outcome.error) if is_failure and outcome.error is not None else None
        is_holding = lease is not None and self._agreement is not None
        if is_holding and outcome.reply is None:
            # First, or whoever asks next would find the failure of the one before.
            await self._release(lease, failure)
        flight.end(outcome)
        if outcome.reply is not None and flight.call.cache_slot is not None:
            # Until it is written, who asks for the same is answered by this flight.
            await flight.call.cache_slot.settled()
        if self._flights.get(flight.call.key) is flight:
            del self._flights[flight.call.key]
        if flight.is_running:
            self._landed[flight.call.key] = flight.story
            self._landed.move_to_end(flight.call.key)
            while len(self._landed) > _REMEMBERED:
                self._landed.popitem(last=False)
        if is_holding and outcome.reply is not None:
            await self._release(lease, None)
        if flight.is_orphaned and flight.is_running and flight.generation is not None:
            self._instruments.add(Metric.FLIGHT_LEFT, 1)
            if self._on_orphaned is not None:
                await self._on_orphaned(flight.call, flight.generation, outcome)

    async def _release(self, lease: Any, failure: bytes | None) -> None:
        if self._agreement is not None:
            await self._agreement.release(lease, failure=failure)

    def _fence(self) -> int:
        self._last_fence = max(self._last_fence + 1, time.time_ns() // 1000)
        return self._last_fence

    def _count(self, flight: Run, outcome: RunOutcome, waited_s: float, *, is_remote: bool) -> None:
        self._instruments.record(
            Metric.FLIGHT_WAIT,
            waited_s,
            {
                Attr.FLIGHT_SCOPE: "other_process" if is_remote else "process",
                Attr.OUTCOME: "ok" if outcome.error is None else outcome_of(outcome.error),
            },
        )
        origin = flight.origin
        if not is_remote and origin.is_valid:
            trace.get_current_span().add_link(origin)


def _reply(outcome: RunOutcome, reply: Reply, *, is_first: bool) -> Reply:
    if is_first and not outcome.is_remote:
        return reply
    return replace(reply, source=COLLAPSED)


def _raisable(outcome: RunOutcome, *, is_first: bool) -> BaseException:
    error = outcome.error
    if error is None or (isinstance(error, asyncio.CancelledError) and not is_first):
        return GenerationFailed("the generation that this call waited for was cancelled", error_type="CancelledError")
    # It is raised by everybody who waited; their frames should not pile up in it.
    return error.with_traceback(outcome.traceback)
