"""Brings the waiting records to one sink: in order, at least once, whatever the sink does.

A sink that fails is asked again after a growing, jittered pause. To tell a bad record from a sink that is down, the
first record of a failed batch is sent alone: if it passes, groups of two, four and more follow (slow start, as TCP
does), until one fails again; only if a record alone keeps failing while others pass right after it, it is bad and goes
to the dead letters. When nothing passes, nothing is given up, and three attempts are enough to see that.
"""

import asyncio
import random
from contextlib import AbstractAsyncContextManager, suppress
from logging import getLogger
from typing import Final

from forge_otel._internal.tasks import abandon_after
from forge_otel.errors import Rejected
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.bulk_load import Drain
from forge_otel.outbox.codec import DamagedRecord
from forge_otel.outbox.journal_queue import Batch, JournalQueue, QueuedRecord
from forge_otel.outbox.throughput import Throughput
from forge_otel.types import Record, Sink
from forge_otel.types.capabilities import SizedBatches

__all__ = ["DeliveryWorker"]

_logger = getLogger(__name__)
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 30.0
_ATTEMPT_TIMEOUT_S: Final = 60.0
_STRIKES: Final = 3
_BATCH_RECORDS: Final = 500
# Enough to find one that passes, while nothing may.
_TRIAL_RECORDS: Final = 50


class DeliveryWorker:
    """Serves one sink until it is told to finish.

    Args:
        name: of the sink, in metrics and logs.
        sink: if it is an asynchronous context manager it is entered first, again and again until that works; it may say
            in `batch_records` how many records it likes at once.
        backlog: where the records wait.
        ledger: knows how many do.
    """

    def __init__(self, name: str, sink: Sink, *, backlog: JournalQueue, ledger: DeliveryAccounting) -> None:
        self.name = name
        self.last_error = ""
        self.pace = Throughput()
        self._sink = sink
        self._batch_records = sink.batch_records if isinstance(sink, SizedBatches) else _BATCH_RECORDS
        self._backlog = backlog
        self._ledger = ledger
        self._drain = Drain(name, sink, backlog=backlog, ledger=ledger, on_delivered=self.pace.add)
        self._failures = 0
        self._is_open = False
        self._wake = asyncio.Event()
        self._finishing = asyncio.Event()
        # Ids of records that were stored before their turn, to prove that the sink is up.
        self._ahead: set[str] = set()

    @property
    def is_up(self) -> bool:
        """Whether the last attempt succeeded."""
        return not self._failures

    def wake(self) -> None:
        """Look for new records."""
        self._wake.set()

    def finish(self) -> None:
        """Let `run` end when nothing waits any more, or at the next failure."""
        self._finishing.set()
        self._wake.set()

    async def run(self) -> None:
        """Deliver until finished."""
        while not self._is_done():
            self._wake.clear()
            try:
                await self._open()
                if not await self._deliver_next():
                    await self._wake.wait()
            except Exception as exc:
                # A sink may raise anything, and never beyond this line.
                self._note_failure(exc)
                if self._finishing.is_set():
                    return
                await self._pause()

    async def close(self, *, timeout_s: float) -> None:
        """Close the sink if it was opened; what it raises then is logged."""
        self._drain.close()
        if not self._is_open or not isinstance(self._sink, AbstractAsyncContextManager):
            return
        self._is_open = False
        try:
            await abandon_after(self._sink.__aexit__(None, None, None), timeout_s=timeout_s)
        except Exception as exc:
            _logger.warning("the sink %s did not close cleanly: %s", self.name, _described(exc))

    def _is_done(self) -> bool:
        return self._finishing.is_set() and not self._ledger.waiting(self.name)

    async def _open(self) -> None:
        if not self._is_open and isinstance(self._sink, AbstractAsyncContextManager):
            await abandon_after(self._sink.__aenter__(), timeout_s=_ATTEMPT_TIMEOUT_S)
        self._is_open = True

    async def _deliver_next(self) -> bool:
        if not self._failures and await self._drain.work():
            self._ahead.clear()
            return True
        limit = min(self._batch_records, _TRIAL_RECORDS) if self._failures else self._batch_records
        batch = await self._backlog.read(self.name, limit=self._drain.limit(limit))
        if batch is None:
            return False
        await self._deliver(batch)
        if self._failures:
            _logger.warning("the sink %s takes records again", self.name)
        self._failures = 0
        self.last_error = ""
        return True

    async def _deliver(self, batch: Batch) -> None:
        """Deliver the batch in order, after a failure in growing groups from one record on; raise if nothing passes."""
        entries = batch.entries
        size = 1 if self._failures else len(entries)
        while entries:
            group, rest = entries[:size], entries[size:]
            error = await self._attempt(group)
            if error is not None and len(group) > 1:
                # Halving it would ask a sink that is down again and again.
                size = 1
                continue
            if error is not None:
                error = await self._insist(group[0], error, others=rest)
            if error is None:
                self._backlog.settle(self.name, batch, group[-1].seq, delivered=len(group))
                self.pace.add(len(group))
            else:
                self._give_up(batch, group[0], error)
            self._ahead.difference_update(record.id for record in _records(group))
            entries, size = rest, size * 2

    async def _attempt(self, group: list[QueuedRecord]) -> Exception | None:
        for entry in group:
            if isinstance(entry.record, DamagedRecord):
                return entry.record
        return await self._hand_over([record for record in _records(group) if record.id not in self._ahead])

    async def _hand_over(self, records: list[Record]) -> Exception | None:
        try:
            if records:
                await abandon_after(self._sink.deliver(records), timeout_s=_ATTEMPT_TIMEOUT_S)
        except Exception as exc:
            return exc
        return None

    async def _insist(self, entry: QueuedRecord, error: Exception, *, others: list[QueuedRecord]) -> Exception | None:
        """Try one record until it passes, or is proven bad: then return its error. Raise when the sink is down."""
        for strike in range(_STRIKES):
            if isinstance(error, Rejected | DamagedRecord):
                break
            if not await self._another_passes(entry, others):
                raise error
            await asyncio.sleep(random.uniform(0, _FIRST_PAUSE_S * 2**strike))  # noqa: S311 - jitter
            failed = await self._attempt([entry])
            if failed is None:
                return None
            error = failed
        return error

    async def _another_passes(self, entry: QueuedRecord, others: list[QueuedRecord]) -> bool:
        """Store one other record before its turn: of another component if there is one, so that order is kept there."""
        records = _records(others)
        fresh = [record for record in records if record.id not in self._ahead] or records
        own = {record.component_id for record in _records([entry])}
        strangers = [record for record in fresh if record.component_id not in own] or fresh
        if not strangers:
            return False
        chosen = random.choice(strangers)  # noqa: S311 - so that two bad records cannot hide behind each other
        if await self._hand_over([chosen]) is not None:
            return False
        self._ahead.add(chosen.id)
        return True

    def _give_up(self, batch: Batch, entry: QueuedRecord, error: Exception) -> None:
        reason = "damaged" if isinstance(entry.record, DamagedRecord) else "rejected"
        name = entry.record.id if isinstance(entry.record, Record) else "unknown"
        _logger.error("the sink %s will never get the generation %s: %s", self.name, name, _described(error))
        self._backlog.bury(self.name, entry, reason=_described(error))
        self._backlog.settle(self.name, batch, entry.seq, delivered=0, dropped={reason: 1})

    def _note_failure(self, exc: Exception) -> None:
        self.last_error = _described(exc)
        self._failures += 1
        if self._failures == 1:
            waiting = self._ledger.waiting(self.name)
            _logger.warning("nothing reaches the sink %s, %d records wait: %s", self.name, waiting, self.last_error)

    async def _pause(self) -> None:
        """Wait a random part of a time that doubles with each failure (full jitter), or until told to finish."""
        longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures, 16))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._finishing.wait(), random.uniform(0, longest_s))  # noqa: S311 - jitter


def _records(group: list[QueuedRecord]) -> list[Record]:
    return [entry.record for entry in group if isinstance(entry.record, Record)]


def _described(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"[:500]
