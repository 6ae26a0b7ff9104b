"""Follows the progress of a run, in whichever process it is active, from its first event."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from forge_otel.errors import GenerationTimeout, NotFound
from forge_otel.layers.single_flight.lease_election import LeaseElection
from forge_otel.layers.single_flight.progress import EventLog, decode_event, parse_event_id
from forge_otel.layers.single_flight.run import Run
from forge_otel.types import TERMINAL, Event, Progress

__all__ = ["RunFollower"]

_FOLLOW_POLL_S: Final = 1.0
_LOCAL_POLL_S: Final = 0.05


class RunFollower:
    """Reads the events of runs for callers that follow them.

    Args:
        runs: active runs of this process by key.
        finished: event logs of runs of this process that ended recently, by key.
        election: reads the events of other processes; None restricts following to this process.
        timeout_s: seconds without an event after which a run counts as lost.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        finished: Mapping[str, EventLog],
        *,
        election: LeaseElection | None,
        timeout_s: float,
    ) -> None:
        self._runs = runs
        self._finished = finished
        self._election = election
        self._timeout_s = timeout_s

    async def follow(self, key: str, *, after: tuple[int, int], wait_s: float) -> AsyncGenerator[Progress, None]:
        """Yield the progress events of the run of `key`, from the beginning to the end.

        Args:
            key: of the call.
            after: run and number of the last event received; zeros for all.
            wait_s: seconds to wait for a run to start.

        Raises:
            NotFound: no run is active, and none finished recently.
            GenerationTimeout: the run published no event for `timeout_s`.
        """
        last_event_s, has_started, has_ended = time.monotonic(), False, False
        while True:
            async with aclosing(self._new_events(key, after)) as events:
                async for progress in events:
                    last_event_s, has_started, after = time.monotonic(), True, parse_event_id(progress.id)
                    has_ended = progress.kind in TERMINAL
                    yield progress
            if has_ended:
                return
            # Another process may have taken the run over: its events are found at the next poll.
            silent_s = time.monotonic() - last_event_s
            if not has_started and silent_s >= wait_s:
                raise NotFound("no generation of this request is running; start one, then follow it")
            if silent_s >= self._timeout_s:
                raise GenerationTimeout("the generation reported no progress in time; send the request again")
            left_s = _FOLLOW_POLL_S if has_started else max(0.01, wait_s - silent_s)
            await self._wait_for_change(key, min(_FOLLOW_POLL_S, left_s))

    async def _new_events(self, key: str, after: tuple[int, int]) -> AsyncGenerator[Progress, None]:
        run = self._runs.get(key)
        log = self._finished.get(key) if run is None or not run.is_local else run.event_log
        if log is not None and (log.fence, len(log.events)) > after:
            async with aclosing(log.follow(after)) as events:
                async for progress in events:
                    yield progress
            return
        if self._election is None:
            return
        for event in await self._remote_events(self._election, key, after):
            yield decode_event(event)

    @staticmethod
    async def _remote_events(election: LeaseElection, key: str, after: tuple[int, int]) -> list[Event]:
        found: list[Event] = []
        while page := await election.events(key, (found[-1].fence, found[-1].number) if found else after):
            found += page
        # Events of an earlier run matter only to a follower that has already received its first ones.
        newest = max((event.fence for event in found), default=0)
        return [event for event in found if event.fence in {newest, after[0]}]

    async def _wait_for_change(self, key: str, timeout_s: float) -> None:
        run = self._runs.get(key)
        if self._election is not None and (run is None or not run.is_local):
            await self._election.wait_for_change(key, timeout_s)
        else:
            await asyncio.sleep(min(timeout_s, _LOCAL_POLL_S))
