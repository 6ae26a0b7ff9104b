"""Delivery of the waiting records to one sink: in order, at least once, with retries and dead letters.

After a failure the first record of the batch is sent alone. If it is stored, groups of 2, 4 and more follow, as in TCP
slow start. A record that keeps failing while another one is stored becomes a dead letter. While none is stored, the
sink is unavailable, and every record stays in the journal.
"""

import asyncio
import random
import time
from contextlib import AbstractAsyncContextManager, suppress
from logging import getLogger
from typing import Final

from forge_otel._internal.backoff import Backoff
from forge_otel._internal.tasks import BackgroundTask, abandon_after
from forge_otel.errors import Rejected
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.bulk_load import BulkLoader
from forge_otel.outbox.codec import DamagedRecord
from forge_otel.outbox.journal_queue import JournalQueue, QueuedBatch, QueuedRecord
from forge_otel.outbox.throughput import Throughput
from forge_otel.types import Record, Sink
from forge_otel.types.capabilities import SupportsBulkLoad

__all__ = ["DeliveryWorker"]

_logger = getLogger(__name__)
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 30.0
_FIRST_RETRY_S: Final = 0.1
_ATTEMPT_TIMEOUT_S: Final = 60.0
# An attempt that takes longer is reported as an outage while it runs.
_SLOW_ATTEMPT_S: Final = 5.0
_RETRIES_PER_RECORD: Final = 3
_BATCH_RECORDS: Final = 500
# While the sink is unavailable a batch is read to find one record that it stores; fewer are enough for that.
_PROBE_RECORDS: Final = 50


class DeliveryWorker:
    """Background task that serves one sink from `start` to `finish`.

    Args:
        name: of the sink, in metrics and logs.
        sink: an asynchronous context manager is entered first, and again until that succeeds.
        queue: the waiting records.
        accounting: counts them.
    """

    def __init__(self, name: str, sink: Sink, *, queue: JournalQueue, accounting: DeliveryAccounting) -> None:
        self.name = name
        self.throughput = Throughput()
        self._last_error = ""
        self._sink = sink
        self._batch_records = sink.batch_records if isinstance(sink, SupportsBulkLoad) else _BATCH_RECORDS
        self._queue = queue
        self._accounting = accounting
        self._bulk_loader = BulkLoader(name, sink, queue=queue, accounting=accounting, on_delivered=self._count)
        self._task = BackgroundTask(self._run, name=f"forge-outbox-{name}")
        self._backoff = Backoff(first_s=_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
        self._is_failing = False
        # Monotonic time of the last progress of the work that is going on; None while the task waits for records.
        self._busy_since_s: float | None = None
        self._is_open = False
        self._wake = asyncio.Event()
        self._finishing = asyncio.Event()
        self._finished = asyncio.Event()
        # Ids of records that were stored before their turn, to prove that the sink is available.
        self._stored_early: set[str] = set()

    @property
    def is_up(self) -> bool:
        """Return whether the last attempt succeeded, and none has run for 5 s without progress."""
        return not self._is_failing and self._stalled_s < _SLOW_ATTEMPT_S

    @property
    def last_error(self) -> str:
        """Describe the failure of the last attempt, or the attempt that hangs; empty while the sink is up."""
        if self._is_failing or self.is_up:
            return self._last_error
        return f"no response for {self._stalled_s:.0f} s"

    @property
    def _stalled_s(self) -> float:
        return 0.0 if self._busy_since_s is None else time.monotonic() - self._busy_since_s

    def start(self) -> None:
        """Start to deliver."""
        self._task.start()

    def wake(self) -> None:
        """Look for new records."""
        self._wake.set()

    async def finish(self, *, timeout_s: float) -> None:
        """Deliver until the queue is empty, a delivery fails, or `timeout_s` is over."""
        self._finishing.set()
        self._wake.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._finished.wait(), timeout_s)
        # The time is used up: the task is cancelled and not awaited.
        await self._task.stop(timeout_s=0)

    async def close(self, *, timeout_s: float) -> None:
        """Close the sink if it was opened; its exceptions are logged."""
        self._bulk_loader.close()
        if not self._is_open or not isinstance(self._sink, AbstractAsyncContextManager):
            return
        self._is_open = False
        try:
            await abandon_after(self._sink.__aexit__(None, None, None), timeout_s=timeout_s)
        except Exception as exc:
            _logger.warning("sink %s did not close cleanly: %s", self.name, _described(exc))

    async def _run(self) -> None:
        while not self._is_done():
            self._wake.clear()
            self._busy_since_s = time.monotonic()
            try:
                await self._open()
                if not await self._deliver_next():
                    self._busy_since_s = None
                    await self._wake.wait()
            except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
                raise
            # BaseException: the PanicException of a Rust extension is one. A sink's exceptions end here.
            except BaseException as exc:
                self._record_failure(exc)
                if self._finishing.is_set():
                    break
                await self._pause()
        self._finished.set()

    def _is_done(self) -> bool:
        return self._finishing.is_set() and not self._accounting.waiting(self.name)

    async def _open(self) -> None:
        if not self._is_open and isinstance(self._sink, AbstractAsyncContextManager):
            await abandon_after(self._sink.__aenter__(), timeout_s=_ATTEMPT_TIMEOUT_S)
        self._is_open = True

    async def _deliver_next(self) -> bool:
        if not self._is_failing and await self._bulk_loader.run():
            self._stored_early.clear()
            return True
        limit = min(self._batch_records, _PROBE_RECORDS) if self._is_failing else self._batch_records
        batch = await self._queue.read(self.name, limit=self._bulk_loader.batch_limit(limit))
        if batch is None:
            return False
        await self._deliver(batch)
        if self._is_failing:
            _logger.warning("sink %s available again", self.name)
        self._is_failing = False
        self._backoff.reset()
        self._last_error = ""
        return True

    async def _deliver(self, batch: QueuedBatch) -> None:
        """Deliver the batch in order, after a failure in groups that grow from one record; raise if none is stored."""
        entries = batch.entries
        size = 1 if self._is_failing else len(entries)
        while entries:
            group, rest = entries[:size], entries[size:]
            error = await self._attempt(group)
            if error is not None and len(group) > 1:
                # Halving the group would send many requests to a sink that is unavailable.
                size = 1
                continue
            if error is not None:
                error = await self._retry_record(group[0], error, rest=rest)
            if error is None:
                self._queue.acknowledge(self.name, batch, group[-1].seq, delivered=len(group))
                self._count(len(group))
            else:
                await self._give_up(batch, group[0], error)
            self._stored_early.difference_update(record.id for record in _records(group))
            entries, size = rest, size * 2

    async def _attempt(self, group: list[QueuedRecord]) -> BaseException | None:
        for entry in group:
            if isinstance(entry.record, DamagedRecord):
                return entry.record
        return await self._send([record for record in _records(group) if record.id not in self._stored_early])

    async def _send(self, records: list[Record]) -> BaseException | None:
        self._busy_since_s = time.monotonic()
        try:
            if records:
                await abandon_after(self._sink.deliver(records), timeout_s=_ATTEMPT_TIMEOUT_S)
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            raise
        except BaseException as exc:
            return exc
        return None

    async def _retry_record(
        self, entry: QueuedRecord, error: BaseException, *, rest: list[QueuedRecord]
    ) -> BaseException | None:
        """Send one record again until it is stored or proven bad; return its last error. Raise if the sink is down."""
        for retry in range(_RETRIES_PER_RECORD):
            if isinstance(error, Rejected | DamagedRecord):
                break
            if not await self._stores_another(entry, rest):
                raise error
            await asyncio.sleep(random.uniform(0, _FIRST_RETRY_S * 2**retry))  # noqa: S311 - jitter
            failed = await self._attempt([entry])
            if failed is None:
                return None
            error = failed
        return error

    async def _stores_another(self, entry: QueuedRecord, rest: list[QueuedRecord]) -> bool:
        """Return whether the sink stores another record of the batch before its turn."""
        records = _records(rest)
        fresh = [record for record in records if record.id not in self._stored_early] or records
        components = {record.component_id for record in _records([entry])}
        # Order matters within a component only, so a record of another one is preferred.
        candidates = [record for record in fresh if record.component_id not in components] or fresh
        if not candidates:
            return False
        # A random one, so that two bad records cannot each serve as the proof that the sink is down.
        chosen = random.choice(candidates)  # noqa: S311
        if await self._send([chosen]) is not None:
            return False
        self._stored_early.add(chosen.id)
        return True

    def _count(self, delivered: int) -> None:
        self._busy_since_s = time.monotonic()
        self.throughput.add(delivered)

    async def _give_up(self, batch: QueuedBatch, entry: QueuedRecord, error: BaseException) -> None:
        reason = "damaged" if isinstance(entry.record, DamagedRecord) else "rejected"
        id_ = entry.record.id if isinstance(entry.record, Record) else "unknown"
        _logger.error("generation %s is now a dead letter of sink %s: %s", id_, self.name, _described(error))
        self._busy_since_s = time.monotonic()
        await self._queue.dead_letter(self.name, entry, reason=_described(error))
        self._queue.acknowledge(self.name, batch, entry.seq, delivered=0, dropped={reason: 1})

    def _record_failure(self, exc: BaseException) -> None:
        self._last_error = _described(exc)
        self._busy_since_s = None
        if not self._is_failing:
            queued = self._accounting.waiting(self.name)
            _logger.warning("sink %s unavailable, %d records queued: %s", self.name, queued, self._last_error)
        self._is_failing = True

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._finishing.wait(), self._backoff.next_s())


def _records(group: list[QueuedRecord]) -> list[Record]:
    return [entry.record for entry in group if isinstance(entry.record, Record)]


def _described(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"[:500]
