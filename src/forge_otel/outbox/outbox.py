"""Outbox: a crash-safe queue between generations and sinks.

`Outbox.offer` returns when the record is in a journal on local disk. A background task for each sink delivers it from
there, in order and at least once. For every sink `produced = delivered + waiting + dropped` at any moment.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from logging import getLogger
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from forge_otel.errors import ServiceUnavailable
from forge_otel.names.deliveries import MEMORY_LABEL
from forge_otel.outbox.accounting import DeliveryAccounting, SinkCounts
from forge_otel.outbox.delivery_worker import DeliveryWorker
from forge_otel.outbox.journal_queue import JournalQueue, QueuedWrite
from forge_otel.types import Record, Sink
from forge_otel.types.capabilities import NamedSink

__all__ = ["Outbox", "OutboxOptions", "OutboxStats", "SinkStats", "WhenSlow", "name_of"]

_logger = getLogger(__name__)
_OPEN_TIMEOUT_S: Final = 2.0
_ROOM_TIMEOUT_S: Final = 10.0
_QUEUE_BYTES: Final = 64 * 2**20
_RECORD_OVERHEAD_BYTES: Final = 2_000
# Fraction of the shutdown timeout that is spent on deliveries.
_DELIVERY_SHARE: Final = 0.7
_RETRY_AFTER_S: Final = 1.0

WhenSlow = Literal["answer", "wait", "refuse"]
"""Policy for callers whose record is not on disk in time: the answer, a wait until it is, or an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStats:
    """Figures of one sink since the outbox was opened; adopted records count as produced.

    Args:
        dropped: reason to count: `full` (over the size limit), `rejected` (by the sink), `damaged` (unreadable in the
            journal), `disk` (the disk failed and memory was full), `shutdown` (only in memory when the outbox closed),
            `closed` (offered to a closed outbox).
        oldest_age_s: age of the oldest waiting record in seconds, 0 if none waits.
        drained_in_s: seconds until all waiting records are delivered at the present rate; None without a rate.
        is_up: whether the last attempt succeeded.
        last_error: exception of the last attempt, empty while the sink is up.
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
    """Snapshot of the outbox.

    Args:
        sinks: name to figures.
        journal_bytes: size of the waiting records.
        is_durable: whether a new record survives the death of the process; False also while the journal hangs.
        unjournaled: number of records whose callers got an answer before the journal had the record.
    """

    sinks: Mapping[str, SinkStats]
    journal_bytes: int
    is_durable: bool
    unjournaled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxOptions:
    """Tunables of the outbox.

    Args:
        directory: folder of the journal, shared by the processes of one service; None keeps records in memory.
        max_bytes: size of the waiting records of this process above which new ones are dropped and counted.
        shutdown_timeout_s: time limit of closing in seconds.
        is_power_safe: flush each commit to the disk, so that it survives a power cut.
        when_slow: what a caller gets while the journal does not keep up; None waits if `is_power_safe`, else answers.
    """

    directory: Path | None
    max_bytes: int
    shutdown_timeout_s: float
    is_power_safe: bool = False
    when_slow: WhenSlow | None = None


class Outbox:
    """Stores records in a journal and delivers them to every sink.

    Args:
        sinks: each with a `name`, or named after its class; asynchronous context managers are entered and left.
        options: location and limits of the journal.
    """

    def __init__(self, sinks: Sequence[Sink], options: OutboxOptions) -> None:
        self._sinks = _named(sinks)
        # Absolute, because files are created later and the application may change its working directory.
        self._directory = None if options.directory is None else options.directory.absolute()
        self._options = options
        self._when_slow: WhenSlow = options.when_slow or ("wait" if options.is_power_safe else "answer")
        self._is_open = False
        self._accounting = DeliveryAccounting(tuple(self._sinks))
        self._workers: list[DeliveryWorker] = []
        self._changed = asyncio.Event()
        self._unjournaled = 0
        # Unjournaled records at the begin of the hang that was logged, None while the journal keeps up.
        self._hang_began_at: int | None = None
        # Set when the outbox is closed: a writer thread that hung may go on, but nothing is counted any more.
        self._final: dict[str, SinkCounts] | None = None
        self._queue = self._new_queue()

    async def __aenter__(self) -> Self:
        self._accounting = DeliveryAccounting(tuple(self._sinks))
        self._queue = self._new_queue()
        self._final = None
        self._hang_began_at = None
        self._workers = [
            DeliveryWorker(name, sink, queue=self._queue, accounting=self._accounting)
            for name, sink in self._sinks.items()
        ]
        if not await self._queue.open(timeout_s=_OPEN_TIMEOUT_S):
            _logger.warning("journal in %s opens slowly; records are stored when it is open", self._directory)
        for worker in self._workers:
            worker.start()
        self._is_open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        deadline_s = time.monotonic() + self._options.shutdown_timeout_s
        self._is_open = False
        await self._queue.flush(timeout_s=self._options.shutdown_timeout_s * _DELIVERY_SHARE)
        left_s = max(0.0, deadline_s - time.monotonic() - self._options.shutdown_timeout_s * (1 - _DELIVERY_SHARE))
        await asyncio.gather(*(worker.finish(timeout_s=left_s) for worker in self._workers))
        # The journal needs the remaining half more than the sinks do.
        left_s = max(0.0, deadline_s - time.monotonic())
        await asyncio.gather(*(worker.close(timeout_s=left_s / 2) for worker in self._workers))
        if not await self._queue.close(timeout_s=deadline_s - time.monotonic()):
            _logger.error(
                "journal in %s does not respond and was not closed; it is adopted at the next start", self._directory
            )
        self._final = self._accounting.final_counts(self._queue.volatile())
        self._queue.release_callers()
        self._log_undelivered(self._final)

    def check_accepting(self) -> None:
        """Reject a new generation while the journal is not durable, if `when_slow` is `refuse`.

        Raises:
            ServiceUnavailable: the journal hangs or cannot be written.
        """
        if self._when_slow == "refuse" and self._directory is not None and not self._queue.is_durable:
            # Without offers, the writer would not notice that the disk works again.
            if not self._queue.is_stuck:
                self._queue.probe()
            raise self._refusal()

    async def offer(self, record: Record) -> bool:
        """Store `record`, and return whether it is in the journal; errors of the disk are counted, not raised.

        If the journal is more than 1 s behind, `when_slow` decides: the caller waits until the record is stored, or
        goes on, and the record is stored when the disk responds. If more records arrive than the disk can write,
        callers wait for at most 10 s for room in memory.

        Raises:
            ServiceUnavailable: the record is not in the journal, and `when_slow` is `refuse`.
        """
        try:
            await self._wait_for_room(_size_bytes(record))
        except asyncio.CancelledError:
            self._put(record, None)
            raise
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        write = self._put(record, stored)
        if not self._sinks or (write is not None and await self._is_journaled(write, stored)):
            return True
        self._unjournaled += 1
        if self._when_slow == "refuse":
            raise self._refusal()
        return False

    def offer_nowait(self, record: Record) -> None:
        """Queue `record` for a caller that cannot wait, for example because it is being cancelled."""
        self._put(record, None)

    async def drain(self, *, timeout_s: float) -> bool:
        """Wait until no record waits for any sink; return whether that was so within `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._is_waiting():
                    self._changed.clear()
                    await self._changed.wait()
        return not self._is_waiting()

    def degraded(self) -> list[str]:
        """Return the active fallbacks: `<sink>:outbox` for an unavailable sink, `outbox:memory` for a failing disk."""
        found = [f"{worker.name}:outbox" for worker in self._workers if not worker.is_up]
        return found if self._queue.is_durable or self._directory is None else [*found, MEMORY_LABEL]

    def stats(self) -> OutboxStats:
        """Return a snapshot of the figures; this method is thread-safe."""
        now_s = time.time()
        counts = self._accounting.counts() if self._final is None else self._final
        workers = {worker.name: worker for worker in self._workers}
        return OutboxStats(
            sinks={
                name: SinkStats(
                    produced=count.produced,
                    delivered=count.delivered,
                    waiting=count.waiting,
                    dropped=count.dropped,
                    drained_in_s=workers[name].throughput.drain_time_s(count.waiting) if name in workers else None,
                    oldest_age_s=0.0 if count.oldest_at_s is None else max(0.0, now_s - count.oldest_at_s),
                    is_up=name not in workers or workers[name].is_up,
                    last_error=workers[name].last_error if name in workers else "",
                )
                for name, count in counts.items()
            },
            journal_bytes=self._accounting.size_bytes,
            is_durable=self._queue.is_durable,
            unjournaled=self._unjournaled,
        )

    def _put(self, record: Record, stored: asyncio.Future[None] | None) -> QueuedWrite | None:
        """Queue the record; return None if it was dropped or no sink needs it."""
        if not self._is_open:
            self._drop_closed()
            return None
        if not self._sinks:
            return None
        size_bytes = _size_bytes(record)
        if not self._accounting.offer(size_bytes, limit_bytes=_QUEUE_BYTES):
            return None
        write = QueuedWrite(record, size_bytes, stored)
        self._queue.put(write)
        return write

    def _drop_closed(self) -> None:
        if self._final is None:
            self._accounting.drop_new("closed")
            return
        self._final = {
            name: replace(
                count,
                produced=count.produced + 1,
                dropped={**count.dropped, "closed": count.dropped.get("closed", 0) + 1},
            )
            for name, count in self._final.items()
        }

    async def _is_journaled(self, write: QueuedWrite, stored: asyncio.Future[None]) -> bool:
        """Wait until the record is stored or the journal does not keep up; return whether the record is safe."""
        while not stored.done():
            left_s = self._queue.patience_left_s
            if left_s <= 0 and self._directory is not None:
                self._log_hang()
            if left_s <= 0 and self._when_slow != "wait":
                break
            await asyncio.wait({stored}, timeout=max(left_s, 0) or None)
        return not self._queue.answer_early(write)

    def _log_hang(self) -> None:
        if self._hang_began_at is None:
            self._hang_began_at = self._unjournaled
            _logger.error(
                "journal in %s does not keep up; records wait in memory (outbox_when_slow=%s)",
                self._directory,
                self._when_slow,
            )

    def _refusal(self) -> ServiceUnavailable:
        return ServiceUnavailable(
            "the journal of the service does not respond, and answers that are not in it are refused",
            retry_after_s=_RETRY_AFTER_S,
        )

    async def _wait_for_room(self, size_bytes: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_ROOM_TIMEOUT_S):
                while not self._queue.is_stuck and not self._accounting.has_room(size_bytes, limit_bytes=_QUEUE_BYTES):
                    self._changed.clear()
                    await self._changed.wait()

    def _is_waiting(self) -> bool:
        return any(self._accounting.waiting(name) for name in self._sinks)

    def _new_queue(self) -> JournalQueue:
        return JournalQueue(
            self._accounting,
            directory=self._directory,
            max_bytes=self._options.max_bytes,
            is_power_safe=self._options.is_power_safe,
            on_stored=self._on_stored,
            on_acknowledged=self._changed.set,
        )

    def _on_stored(self) -> None:
        if self._hang_began_at is not None and self._queue.is_durable:
            count, self._hang_began_at = self._unjournaled - self._hang_began_at, None
            _logger.warning("journal in %s keeps up again, %d answers were given without it", self._directory, count)
        self._changed.set()
        for worker in self._workers:
            worker.wake()

    def _log_undelivered(self, counts: Mapping[str, SinkCounts]) -> None:
        for name, count in counts.items():
            if count.waiting:
                _logger.warning("%d records for sink %s stay in the journal until the next start", count.waiting, name)
            if lost := count.dropped.get("shutdown", 0):
                _logger.error("%d records for sink %s were only in memory and are lost", lost, name)


def _size_bytes(record: Record) -> int:
    return _RECORD_OVERHEAD_BYTES + sum(len(content) for content in record.artifacts.values())


def name_of(sink: Sink) -> str:
    """Return the name of a sink in the journal, in metrics and in logs."""
    return (sink.name if isinstance(sink, NamedSink) else "") or type(sink).__name__.lower()


def _named(sinks: Sequence[Sink]) -> dict[str, Sink]:
    """Return the sinks by unique name; a repeated name gets a number."""
    named: dict[str, Sink] = {}
    for sink in sinks:
        name = wanted = name_of(sink)
        number = 2
        while name in named:
            name, number = f"{wanted}-{number}", number + 1
        named[name] = sink
    return named
