"""Bulk load: a long backlog is written to PostgreSQL by a separate process, and accounted here.

In this process, decoding records and mapping them to rows would compete with requests for the interpreter lock. The
process is started while a sink that supports bulk load is available and has a long backlog, and ended when little is
left. The ordinary delivery stores the rest: rejected batches, records in memory, or everything if no process can be
started.
"""

import time
from collections.abc import Callable
from logging import getLogger
from typing import Final

from forge_otel._internal.backoff import Backoff
from forge_otel._journal.index import SegmentIndex
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.bulk_process import BulkProcess, Message
from forge_otel.outbox.journal_queue import JournalQueue, SegmentRange
from forge_otel.types import Sink
from forge_otel.types.capabilities import SupportsBulkLoad

__all__ = ["BulkLoader"]

_logger = getLogger(__name__)
# The ordinary delivery stores so few records faster than another process can report them.
_FEW_RECORDS: Final = 500
# On a machine without idle CPU time the process, which has the lowest priority, never answers.
_RESPONSE_TIMEOUT_S: Final = 30.0
_FIRST_RESTART_S: Final = 2.0
_LONGEST_RESTART_S: Final = 300.0


class _ProcessEnded(Exception):
    """The process ended for a reason other than an error of the database."""


class BulkLoader:
    """Loads the backlog of one sink beside its `DeliveryWorker`.

    Args:
        name: of the sink.
        sink: without `SupportsBulkLoad` nothing is loaded.
        queue: the waiting records.
        accounting: counts them.
        on_delivered: called with the number of records of each stored batch.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        queue: JournalQueue,
        accounting: DeliveryAccounting,
        on_delivered: Callable[[int], None],
    ) -> None:
        self._name = name
        self._sink = sink if isinstance(sink, SupportsBulkLoad) else None
        self._threshold = None if self._sink is None else self._sink.bulk_load_above
        self._queue = queue
        self._accounting = accounting
        self._on_delivered = on_delivered
        self._process: BulkProcess | None = None
        self._delivered = 0
        self._backoff = Backoff(first_s=_FIRST_RESTART_S, longest_s=_LONGEST_RESTART_S)
        self._restart_at_s = 0.0
        # Segment and sequence number of the end of a rejected batch, which the ordinary delivery stores first.
        self._rejected_until: tuple[SegmentIndex, int] | None = None

    def batch_limit(self, limit: int) -> int:
        """Return how many records the ordinary delivery may read next, at most `limit`."""
        # After a rejected batch only its own records: those behind it are faster in bulk.
        span = self._queue.segment_range(self._name)
        if span is None or self._rejected_until is None or self._rejected_until[0] is not span.batch.index:
            return limit
        return max(1, min(limit, self._rejected_until[1] - span.after))

    async def run(self) -> bool:
        """Load the backlog if it is long; return whether any record was stored.

        Raises:
            ConnectionError: the database fails.
        """
        if not self._is_due():
            return False
        before = self._delivered
        try:
            if self._process is None:
                self._process = await self._started()
            await self._load(self._process)
        except _ProcessEnded as exc:
            self.close()
            self._postpone(exc)
        except BaseException:
            self.close()
            raise
        return self._delivered > before

    def close(self) -> None:
        """Kill the process; records that it stored without a report are delivered again, and stored once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def _is_due(self) -> bool:
        queued = self._accounting.waiting(self._name)
        if self._process is not None and queued <= _FEW_RECORDS:
            _logger.info("bulk load process of sink %s finished", self._name)
            self.close()
        if self._threshold is None or queued <= (self._threshold if self._process is None else _FEW_RECORDS):
            return False
        return time.monotonic() >= self._restart_at_s and self._next_range() is not None

    def _next_range(self) -> SegmentRange | None:
        """Return the records that the process may store now."""
        span = self._queue.segment_range(self._name)
        if span is not None and self._rejected_until is not None:
            index, seq = self._rejected_until
            if index is span.batch.index and span.after < seq:
                return None
            self._rejected_until = None
        return span

    async def _started(self) -> BulkProcess:
        options = None if self._sink is None else self._sink.bulk_load_options()
        if options is None:
            self._threshold = None
            raise _ProcessEnded("the database cannot be reached from another process")
        process = BulkProcess(options)
        process.start()
        message = await self._received(process)
        if "impossible" in message:
            raise _ProcessEnded(message["impossible"])
        queued = self._accounting.waiting(self._name)
        _logger.info(
            "bulk load process %d started for sink %s, %d records queued", message["started"], self._name, queued
        )
        return process

    async def _load(self, process: BulkProcess) -> None:
        """Send one range after the other, until few records are left or a batch is rejected."""
        while self._accounting.waiting(self._name) > _FEW_RECORDS and (span := self._next_range()) is not None:
            process.send({"path": str(span.path), "after": span.after, "last": span.last})
            before = self._delivered
            await self._account(process, span)
            if self._delivered == before:
                return

    async def _account(self, process: BulkProcess, span: SegmentRange) -> None:
        """Account the stored batches of a range until its end, or until a batch is rejected."""
        while "done" not in (message := await self._received(process)):
            if "failed" in message:
                raise ConnectionError(message["failed"])
            if "rejected" in message:
                self._rejected_until = span.batch.index, message["rejected"]
                return
            self._queue.acknowledge(self._name, span.batch, message["seq"], delivered=message["count"])
            self._on_delivered(message["count"])
            self._delivered += message["count"]
            self._backoff.reset()

    async def _received(self, process: BulkProcess) -> Message:
        try:
            message = await process.receive(timeout_s=_RESPONSE_TIMEOUT_S)
        except TimeoutError as exc:
            raise _ProcessEnded(f"it did not respond for {_RESPONSE_TIMEOUT_S:g} s") from exc
        if message is None:
            raise _ProcessEnded("it was killed, or the database did not respond")
        return message

    def _postpone(self, why: _ProcessEnded) -> None:
        """Leave the backlog to the ordinary delivery until the back-off is over."""
        if self._threshold is None:
            return
        self._restart_at_s = time.monotonic() + self._backoff.next_s()
        _logger.warning("bulk load process of sink %s ended early: %s", self._name, why)
