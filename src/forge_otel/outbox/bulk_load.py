"""Hands a long backlog over to a process of its own, and books what that stores.

Decoding records and turning them into rows would otherwise compete with the requests for this process's one
interpreter lock. The other process is started when much waits for a sink that names the way to its database and has
just taken a record; it ends when little is left. Whatever it does not manage, the ordinary delivery does: a batch that
the database refuses, records that no file holds, or all of them where no process can be started.
"""

import time
from collections.abc import Callable
from logging import getLogger
from typing import Final

from forge_otel._journal.index import Index
from forge_otel.outbox.accounting import DeliveryAccounting
from forge_otel.outbox.bulk_process import DrainProcess, Message
from forge_otel.outbox.journal_queue import JournalQueue, Stretch
from forge_otel.types import Sink
from forge_otel.types.capabilities import SupportsBulkLoad

__all__ = ["Drain"]

_logger = getLogger(__name__)
# So few are delivered faster than another process hears of them.
_FEW_RECORDS: Final = 500
# It gets no processor time from a machine that is busy throughout; then this process has to do it after all.
_PATIENCE_S: Final = 30.0
_FIRST_REST_S: Final = 1.0
_LONGEST_REST_S: Final = 300.0


class _Ended(Exception):
    """The other process is gone, for a reason that says nothing about the database."""


class Drain:
    """Serves one sink beside its `Delivery`.

    Args:
        name: of the sink.
        sink: only one that supports bulk load is drained.
        backlog: where the records wait.
        ledger: knows how many do.
        on_delivered: called with the number of each batch.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        backlog: JournalQueue,
        ledger: DeliveryAccounting,
        on_delivered: Callable[[int], None],
    ) -> None:
        self._name = name
        self._sink = sink if isinstance(sink, SupportsBulkLoad) else None
        self._above = None if self._sink is None else self._sink.bulk_load_above
        self._backlog = backlog
        self._ledger = ledger
        self._on_delivered = on_delivered
        self._process: DrainProcess | None = None
        self._delivered = 0
        self._failures = 0
        self._not_before_s = 0.0
        # Up to where the ordinary delivery has to come first.
        self._left: tuple[Index, int] | None = None

    def limit(self, most: int) -> int:
        """Return how many records the ordinary delivery should take next, `most` at most."""
        stretch = self._backlog.stretch(self._name)
        if stretch is None or self._left is None or self._left[0] is not stretch.batch.index:
            return most
        return max(1, min(most, self._left[1] - stretch.after))

    async def work(self) -> bool:
        """Have the other process deliver what waits, if that is much; return whether it delivered anything.

        Raises:
            ConnectionError: the database takes nothing from it.
        """
        if not self._is_due():
            return False
        before = self._delivered
        try:
            if self._process is None:
                self._process = await self._started()
            await self._serve(self._process)
        except _Ended as exc:
            self.close()
            self._rest(exc)
        except BaseException:
            self.close()
            raise
        return self._delivered > before

    def close(self) -> None:
        """End the other process, whatever it is at: what it has stored without having said so is stored once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def _is_due(self) -> bool:
        waiting = self._ledger.waiting(self._name)
        if self._process is not None and waiting <= _FEW_RECORDS:
            _logger.info("the process that drained the backlog of %s has ended", self._name)
            self.close()
        if self._above is None or waiting <= (self._above if self._process is None else _FEW_RECORDS):
            return False
        return time.monotonic() >= self._not_before_s and self._next() is not None

    def _next(self) -> Stretch | None:
        """Return what the other process may deliver now."""
        stretch = self._backlog.stretch(self._name)
        if stretch is not None and self._left is not None:
            index, seq = self._left
            if index is stretch.batch.index and stretch.after < seq:
                return None
            self._left = None
        return stretch

    async def _started(self) -> DrainProcess:
        options = None if self._sink is None else self._sink.bulk_load_options()
        if options is None:
            self._above = None
            raise _Ended("the database is not one that another process could reach")
        process = DrainProcess(options)
        process.start()
        message = await self._heard(process)
        if "impossible" in message:
            raise _Ended(message["impossible"])
        waiting = self._ledger.waiting(self._name)
        _logger.info("process %d drains the backlog of %s, %d records", message["started"], self._name, waiting)
        return process

    async def _serve(self, process: DrainProcess) -> None:
        """Give it one stretch after the other, until little is left or something is for the ordinary delivery."""
        while self._ledger.waiting(self._name) > _FEW_RECORDS and (stretch := self._next()) is not None:
            process.ask({"path": str(stretch.path), "after": stretch.after, "last": stretch.last})
            before = self._delivered
            await self._follow(process, stretch)
            if self._delivered == before:
                return

    async def _follow(self, process: DrainProcess, stretch: Stretch) -> None:
        """Book what it stores of a stretch until that is done, or it leaves the next records to us."""
        while "done" not in (message := await self._heard(process)):
            if "failed" in message:
                raise ConnectionError(message["failed"])
            if "refused" in message:
                self._left = stretch.batch.index, message["refused"]
                return
            self._backlog.settle(self._name, stretch.batch, message["seq"], delivered=message["count"])
            self._on_delivered(message["count"])
            self._delivered += message["count"]
            self._failures = 0

    async def _heard(self, process: DrainProcess) -> Message:
        try:
            message = await process.answer(timeout_s=_PATIENCE_S)
        except TimeoutError as exc:
            raise _Ended(f"nothing was heard of it for {_PATIENCE_S:g} s") from exc
        if message is None:
            raise _Ended("it was killed, or nothing moved")
        return message

    def _rest(self, why: _Ended) -> None:
        """Leave it to the ordinary delivery for a while that doubles each time."""
        if self._above is None:
            return
        rest_s = min(_LONGEST_REST_S, _FIRST_REST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self._not_before_s = time.monotonic() + rest_s
        _logger.warning("the process that drains the backlog of %s has ended early: %s", self._name, why)
