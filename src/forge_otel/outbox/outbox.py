"""The outbox: what was answered is stored, whatever happens to the stores, the disk or the process.

`Outbox.offer` returns when the record is in a journal on local disk; from there a task for each sink delivers it in
the background, at least once and in order. For every sink `produced = delivered + waiting + dropped` at any moment.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.delivery_worker import DeliveryWorker
from forge_otel.outbox.journal_queue import JournalQueue
from forge_otel.types import Record, Sink
from forge_otel.types.capabilities import NamedSink

__all__ = ["Outbox", "OutboxStats", "SinkStats", "name_of"]

_logger = getLogger(__name__)
_OPEN_PATIENCE_S: Final = 2.0
_OFFER_PATIENCE_S: Final = 1.0
_ROOM_PATIENCE_S: Final = 10.0
_QUEUE_BYTES: Final = 64 * 2**20
_RECORD_OVERHEAD_BYTES: Final = 2_000
# Of the time for shutting down, the part after which sinks are no longer waited for.
_DELIVERY_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStats:
    """What became of the records for one sink since the outbox was opened; adopted ones count as produced.

    Args:
        dropped: reason to count: `full` (over the size cap), `rejected` (the sink will never take it),
            `damaged` (unreadable in the journal), `disk` (the disk failed and memory was full),
            `shutdown` (only in memory when the outbox closed), `closed` (offered to a closed outbox).
        oldest_age_s: how long the first waiting record has waited, 0 if none does.
        drained_in_s: when the last of those that wait will be delivered at the present pace, None if there is none.
        is_up: whether the last attempt succeeded.
        last_error: what the last failed attempt raised, empty while the sink is up.
    """

    produced: int
    delivered: int
    waiting: int
    dropped: Mapping[str, int]
    oldest_age_s: float
    drained_in_s: float | None
    is_up: bool
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStats:
    """The outbox at one moment.

    Args:
        sinks: name to figures.
        journal_bytes: size of the records that wait.
        is_durable: whether a new record survives the death of the process.
    """

    sinks: Mapping[str, SinkStats]
    journal_bytes: int
    is_durable: bool


class Outbox:
    """Takes records and delivers them to every sink.

    Args:
        sinks: each with a `name`, or named after its class; those that are context managers are entered and left.
        directory: folder of the journal, shared by the processes of one service; None keeps records in memory.
        max_bytes: size of the waiting records of this process above which new ones are dropped and counted.
        shutdown_timeout_s: how long closing may take, whatever is down.
        is_power_safe: flush each commit to the disk itself, so that a power cut takes nothing either.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        directory: Path | None,
        max_bytes: int,
        shutdown_timeout_s: float,
        is_power_safe: bool = False,
    ) -> None:
        self._sinks = _named(sinks)
        # Files are opened later too, when somebody may have changed the working directory.
        self._directory = None if directory is None else directory.absolute()
        self._max_bytes = max_bytes
        self._is_power_safe = is_power_safe
        self._shutdown_timeout_s = shutdown_timeout_s
        self._is_open = False
        self._ledger = DeliveryAccounting(tuple(self._sinks))
        self._deliveries: list[DeliveryWorker] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        # What a caller has waited for in vain.
        self._late: asyncio.Future[None] | None = None
        self._backlog = self._new_backlog()

    async def __aenter__(self) -> Self:
        self._ledger = DeliveryAccounting(tuple(self._sinks))
        self._backlog = self._new_backlog()
        self._late = None
        self._deliveries = [
            DeliveryWorker(name, sink, backlog=self._backlog, ledger=self._ledger) for name, sink in self._sinks.items()
        ]
        if not await self._backlog.open(timeout_s=_OPEN_PATIENCE_S):
            _logger.warning(
                "the journal in %s is slow to open; records are taken and stored when it is", self._directory
            )
        self._tasks = {
            asyncio.create_task(delivery.run(), name=f"forge-outbox-{delivery.name}") for delivery in self._deliveries
        }
        self._is_open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        deadline_s = time.monotonic() + self._shutdown_timeout_s
        self._is_open = False
        await self._backlog.flush(timeout_s=self._shutdown_timeout_s * _DELIVERY_SHARE)
        for delivery in self._deliveries:
            delivery.finish()
        if self._tasks:
            left_s = deadline_s - time.monotonic() - self._shutdown_timeout_s * (1 - _DELIVERY_SHARE)
            _, stuck = await asyncio.wait(self._tasks, timeout=max(0.0, left_s))
            for task in stuck:
                task.cancel()
        # Half of what is left for the sinks, the rest for the journal, which matters more.
        left_s = max(0.0, deadline_s - time.monotonic())
        await asyncio.gather(*(delivery.close(timeout_s=left_s / 2) for delivery in self._deliveries))
        if not await self._backlog.close(timeout_s=deadline_s - time.monotonic()):
            _logger.error(
                "the journal in %s did not close in time; its records wait for the next start", self._directory
            )
        self._report_rest()

    async def offer(self, record: Record) -> None:
        """Take `record` and return when it survives the death of this process; never raises for what fails below.

        A disk that hangs holds the first callers up for a second, and nobody after that until it has stored what it
        was given; the record is stored when the disk comes back. Where more comes at once than the disk takes at
        once, callers wait their turn.
        """
        try:
            await self._wait_for_room(_size_bytes(record))
        except asyncio.CancelledError:
            self._put(record, None)
            raise
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._put(record, stored) and not self._is_hanging():
            done, _ = await asyncio.wait({stored}, timeout=_OFFER_PATIENCE_S)
            self._late = None if done else stored

    def offer_nowait(self, record: Record) -> None:
        """Take `record` for a caller that cannot wait, such as one being cancelled; it is stored in a moment."""
        self._put(record, None)

    async def drain(self, *, timeout_s: float) -> bool:
        """Wait until every sink has everything; return whether that was so within `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._is_waiting():
                    self._changed.clear()
                    await self._changed.wait()
        return not self._is_waiting()

    def degraded(self) -> list[str]:
        """Return what serves in place of something now: `<sink>:outbox` while a sink is down, `outbox:memory`."""
        found = [f"{delivery.name}:outbox" for delivery in self._deliveries if not delivery.is_up]
        return found if self._backlog.is_durable or self._directory is None else [*found, "outbox:memory"]

    def stats(self) -> OutboxStats:
        """Return the figures of this moment; may be called from any thread."""
        now_s = time.time()
        tallies = self._ledger.tallies()
        states = {delivery.name: delivery for delivery in self._deliveries}
        return OutboxStats(
            sinks={
                name: SinkStats(
                    produced=tally.produced,
                    delivered=tally.delivered,
                    waiting=tally.waiting,
                    dropped=tally.dropped,
                    drained_in_s=states[name].pace.time_for(tally.waiting) if name in states else None,
                    oldest_age_s=0.0 if tally.oldest_at_s is None else max(0.0, now_s - tally.oldest_at_s),
                    is_up=name not in states or states[name].is_up,
                    last_error=states[name].last_error if name in states else "",
                )
                for name, tally in tallies.items()
            },
            journal_bytes=self._ledger.size_bytes,
            is_durable=self._backlog.is_durable,
        )

    def _put(self, record: Record, stored: asyncio.Future[None] | None) -> bool:
        if not self._is_open:
            self._ledger.refuse("closed")
            return False
        if not self._sinks:
            return False
        size_bytes = _size_bytes(record)
        if not self._ledger.offer(size_bytes, limit_bytes=_QUEUE_BYTES):
            return False
        self._backlog.put(record, size_bytes=size_bytes, stored=stored)
        return True

    async def _wait_for_room(self, size_bytes: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_ROOM_PATIENCE_S):
                while not self._is_hanging() and not self._ledger.has_room(size_bytes, limit_bytes=_QUEUE_BYTES):
                    self._changed.clear()
                    await self._changed.wait()

    def _is_hanging(self) -> bool:
        return self._late is not None and not self._late.done()

    def _is_waiting(self) -> bool:
        return any(self._ledger.waiting(name) for name in self._sinks)

    def _new_backlog(self) -> JournalQueue:
        return JournalQueue(
            self._ledger,
            directory=self._directory,
            max_bytes=self._max_bytes,
            is_power_safe=self._is_power_safe,
            on_stored=self._on_stored,
            on_settled=self._changed.set,
        )

    def _on_stored(self) -> None:
        self._changed.set()
        for delivery in self._deliveries:
            delivery.wake()

    def _report_rest(self) -> None:
        for name, tally in self._ledger.tallies().items():
            if tally.waiting:
                _logger.warning("%d records wait in the journal for the next start of the sink %s", tally.waiting, name)
            if lost := tally.dropped.get("shutdown", 0):
                _logger.error("%d records for the sink %s were only in memory and are lost", lost, name)


def _size_bytes(record: Record) -> int:
    return _RECORD_OVERHEAD_BYTES + sum(len(content) for content in record.artifacts.values())


def name_of(sink: Sink) -> str:
    """Return the name of a sink in the journal, in metrics and in logs."""
    return (sink.name if isinstance(sink, NamedSink) else "") or type(sink).__name__.lower()


def _named(sinks: Sequence[Sink]) -> dict[str, Sink]:
    """Give each sink the name that its cursor in the journal and its metrics carry."""
    named: dict[str, Sink] = {}
    for sink in sinks:
        name = wanted = name_of(sink)
        number = 2
        while name in named:
            name, number = f"{wanted}-{number}", number + 1
        named[name] = sink
    return named
