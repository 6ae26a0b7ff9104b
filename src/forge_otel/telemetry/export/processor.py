"""A span processor with a bounded queue, a thread that puts what is in it into the spool, and one that sends that.

The call that ends a span only appends it. It takes no lock, because the garbage collector may end spans in the middle
of anything, and it never waits. A span that there is no room for leaves an empty place, so that it is still counted.
Two threads, so that spans reach the disk while the other one waits for a server that does not answer.

What makes requests of spans is Python that never waits for anything, and whoever serves meanwhile gets the interpreter
back late after each system call. So it is done a few spans at a time, with a rest after each few.
"""

import gzip
import logging
import os
import threading
import time
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypedDict

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from forge_otel.telemetry.export.accounting import ExportStats, SpanAccounting
from forge_otel.telemetry.export.sender import Closing, RetryPolicy, SpanSender, Splitter, Transport
from forge_otel.telemetry.export.spool import Batch, Spool, SpoolOptions
from forge_otel.telemetry.processor_hub import SingletonProcessor

__all__ = ["Bounds", "ExportProcessor", "shut_down_concurrently"]

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.25
_STANDSTILL_S: Final = 1.5
# Some 2 ms of work, and as much for the others.
_SLICE: Final = 16
_MAX_REST_S: Final = 0.005

Encode = Callable[[Sequence[ReadableSpan]], bytes]


class Bounds(TypedDict):
    """What an exporter may take."""

    spool: SpoolOptions
    shutdown_timeout_s: float
    max_waiting: int


class ExportProcessor(SingletonProcessor):
    """Takes ended spans, and sends in batches what `select` makes of them.

    Args:
        encode: spans to a request body, which is sent compressed; several in a row are one body.
        halve: a body to two.
        post: sends a compressed body.
        policy: how patient it is.
        spool: where batches wait until the server has taken them.
        max_waiting: spans in memory above which new ones are dropped.
        max_batch: spans in one request.
        shutdown_timeout_s: how long `shutdown` may take.
        rest: called with the seconds to rest between slices of work.
    """

    def __init__(
        self,
        encode: Encode,
        halve: Splitter,
        post: Transport,
        *,
        policy: RetryPolicy | None = None,
        spool: SpoolOptions | None = None,
        max_waiting: int = 10_000,
        max_batch: int = 200,
        shutdown_timeout_s: float = 4.0,
        rest: Callable[[float], object] = time.sleep,
    ) -> None:
        self._encode = encode
        self._halve = halve
        self._post = post
        self._policy = policy or RetryPolicy()
        self._spool_options = spool or SpoolOptions()
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._shutdown_timeout_s = shutdown_timeout_s
        self._rest = rest
        self._restart()
        _revive_after_fork(self)

    @abstractmethod
    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        """Return what can be sent now, after `spans` have ended; on the export thread.

        Args:
            is_last: whether nothing comes after them, so that nothing may be held back.
        """

    def forget(self) -> None:
        """Forget what is held back: in a forked child, where the parent sends it."""

    @property
    def ledger(self) -> SpanAccounting:
        """Where `select` enters what will not be sent."""
        return self._ledger

    def stats(self) -> ExportStats:
        """Return what became of the spans so far."""
        self._take_in()
        found = self._ledger.stats()
        spool = self._spool
        return replace(found, spooled=spool.spans_on_disk, spool_bytes=spool.size_bytes, fault=self._delivery.fault)

    def sampled_out(self, count: int) -> None:
        """Count spans of traces that were not kept, and so never came here."""
        self._left_out.append(count)

    def on_end(self, span: ReadableSpan) -> None:
        """Put the span in the queue, if there is room and it is not one that is recorded for its figures only."""
        if (context := span.get_span_context()) is not None and not context.trace_flags.sampled:
            return
        in_memory = self._ledger.waiting - self._spool.spans_on_disk
        self._arrived.append(span if in_memory + len(self._arrived) < self._max_waiting else None)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until what has ended is settled; return whether there was time for it."""
        flushed = threading.Event()
        self._flushes.append(flushed)
        until_s = time.monotonic() + timeout_millis / 1000
        while self._sender.is_alive() and (left_s := until_s - time.monotonic()) > 0:
            if flushed.wait(min(left_s, _POLL_S)):
                return True
        return flushed.is_set()

    def shutdown(self) -> None:
        """Send what waits, as long as there is time; what is not sent stays in the spool, or is given up."""
        if self._closing.begun.is_set():
            return
        self._closing.begin(self._shutdown_timeout_s)
        self._taker.join(max(self._closing.left_s, 0.0))
        self._wait_for_sender()
        self._take_in()
        self._spool.close(timeout_s=max(self._closing.left_s, _POLL_S))
        kept = self._spool.spans_on_disk
        lost = self._ledger.close(kept=kept)
        if kept:
            logger.info("%d spans wait on disk for the next start", kept)
        if lost:
            logger.warning("%d spans were only in memory and are lost", lost)

    def _wait_for_sender(self) -> None:
        """Let it send what it can; where all is on disk, a server that takes nothing is not waited for."""
        exported, moved_s = -1, time.monotonic()
        while self._sender.is_alive() and self._closing.left_s > 0:
            if (now := self._ledger.stats().exported) != exported:
                exported, moved_s = now, time.monotonic()
            elif self._spool.is_durable and time.monotonic() - moved_s > _STANDSTILL_S:
                return
            self._sender.join(min(_POLL_S, self._closing.left_s))

    def _restart(self) -> None:
        self._arrived: deque[ReadableSpan | None] = deque()
        self._left_out: deque[int] = deque()
        self._taken: list[ReadableSpan] = []
        self._taking = threading.Lock()
        self._flushes: deque[threading.Event] = deque()
        self._ledger = SpanAccounting()
        self._closing = Closing()
        self._spool = Spool(self._spool_options, self._ledger)
        self._delivery = SpanSender(
            self._post, self._spool, self._ledger, halve=self._halve_body, policy=self._policy, closing=self._closing
        )
        self._taker = threading.Thread(target=self._run, name="forge-export", daemon=True)
        self._sender = threading.Thread(target=self._delivery.run, name="forge-export-send", daemon=True)
        self._taker.start()
        self._sender.start()

    def before_fork(self) -> bool:
        """Have no file of the spool in use; return whether `after_fork_in_parent` has to follow."""
        return self._spool.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._spool.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Begin anew: the threads of the parent do not live here, its locks may be held for ever, its files are its."""
        self._spool.after_fork_in_child()
        if not self._closing.begun.is_set():
            self.forget()
            self._restart()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            # No event wakes it for a new span: setting one takes a lock, see the module.
            is_last = self._closing.begun.wait(_POLL_S)
            # Taken before the spans are: what ended before the flush is among them.
            flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
            try:
                self._store(is_last=is_last)
            except Exception:
                logger.exception("An export failed in a way that it should not")
            self._delivery.flushes.extend(flushes)
        self._closing.is_last.set()

    def _store(self, *, is_last: bool) -> None:
        self._take_in()
        with self._taking:
            taken, self._taken = self._taken, []
        ready: list[ReadableSpan] = []
        for part in self._slices(taken):
            ready += self.select(part, is_last=False)
        ready += self.select([], is_last=is_last)
        for start in range(0, len(ready), self._max_batch):
            self._spool.put(self._parcels(ready[start : start + self._max_batch]))

    def _slices(self, spans: Sequence[ReadableSpan]) -> Iterator[Sequence[ReadableSpan]]:
        """Yield a few at a time, and rest after each few for as long as they took, unless there is a hurry."""
        for start in range(0, len(spans), _SLICE):
            began_s = time.monotonic()
            yield spans[start : start + _SLICE]
            if not self._closing.begun.is_set() and len(self._arrived) < self._max_waiting // 4:
                self._rest(min(time.monotonic() - began_s, _MAX_REST_S))

    def _parcels(self, batch: Sequence[ReadableSpan]) -> list[Batch]:
        try:
            # Bodies in a row are one body: repeated fields of protobuf messages add up.
            body = b"".join([self._encode(part) for part in self._slices(batch)])
            return [Batch(body=_compressed(body), count=len(batch))]
        except Exception:
            # Attributes come from anybody: one span that cannot be encoded must not cost the others.
            logger.debug("A batch of %d spans could not be encoded", len(batch), exc_info=True)
        if len(batch) == 1:
            self._ledger.dropped(1, "unreadable")
            return []
        half = len(batch) // 2
        return [*self._parcels(batch[:half]), *self._parcels(batch[half:])]

    def _halve_body(self, body: bytes) -> tuple[bytes, bytes]:
        first, second = self._halve(gzip.decompress(body))
        return _compressed(first), _compressed(second)

    def _take_in(self) -> None:
        """Count what has arrived, and have it ready for the next export."""
        with self._taking:
            # As many as there are now: others arrive meanwhile, for as long as one looks.
            arrived = [self._arrived.popleft() for _ in range(len(self._arrived))]
            spans = [span for span in arrived if span is not None]
            self._taken += spans
            self._ledger.take(len(spans), overflow=len(arrived) - len(spans))
            left_out = sum(self._left_out.popleft() for _ in range(len(self._left_out)))
            self._ledger.take(left_out)
            self._ledger.sampled_out(left_out)


def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=3)


def _revive_after_fork(queue: ExportProcessor) -> None:
    """Restart `queue` in forked children for as long as anybody holds it."""
    if not hasattr(os, "register_at_fork"):
        return
    held = weakref.ref(queue)
    # Those whose spool stands still for the fork that is under way.
    still: list[ExportProcessor] = []

    def before() -> None:
        if (found := held()) is not None and found.before_fork():
            still.append(found)

    def in_parent() -> None:
        while still:
            still.pop().after_fork_in_parent()

    def in_child() -> None:
        still.clear()
        if (found := held()) is not None:
            found.after_fork_in_child()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def shut_down_concurrently(processors: Sequence[SpanProcessor]) -> None:
    """Shut down all at once: there is one deadline, and a server that is away may cost each of them all of it."""

    def close(processor: SpanProcessor) -> None:
        try:
            processor.shutdown()
        except Exception:
            logger.exception("%s could not be closed cleanly", type(processor).__name__)

    closing = [threading.Thread(target=close, args=(processor,), daemon=True) for processor in processors]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()
