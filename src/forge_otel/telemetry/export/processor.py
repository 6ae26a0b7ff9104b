"""Base of the exporting span processors: a bounded queue, a thread that spools batches and a thread that sends them.

Ending a span appends it to the queue. That takes no lock, because the garbage collector can end a span at any point of
the program, and it never blocks. Two threads let spans reach the disk while a request waits for the server.
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
from dataclasses import dataclass, field, replace
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from forge_otel.telemetry.export.accounting import ExportStats, SpanAccounting
from forge_otel.telemetry.export.http import HttpTransport
from forge_otel.telemetry.export.sender import RetryPolicy, ShutdownState, SpanSender, Splitter
from forge_otel.telemetry.export.spool import Batch, Spool, SpoolOptions
from forge_otel.telemetry.processor_hub import SingletonProcessor

__all__ = ["Encoder", "ExportOptions", "ExportProcessor", "shut_down_concurrently"]

_logger = logging.getLogger(__name__)

_POLL_S: Final = 0.25
_NO_PROGRESS_S: Final = 1.5
# Encoding is Python code that never waits, so every other thread would get the interpreter back late after each system
# call. It runs in slices of this many spans (about 2 ms), with a pause after each.
_SLICE_SPANS: Final = 16
_MAX_PAUSE_S: Final = 0.005

Encoder = Callable[[Sequence[ReadableSpan]], bytes]
"""Encodes spans as a request body; several bodies concatenated are one body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Limits of an exporter.

    Args:
        spool: where batches wait until the server has accepted them.
        retry: time limits and back-off of requests; None uses the exporter's own.
        max_queue_size: spans in memory; a span that ends above it is dropped as `queue_full`.
        shutdown_timeout_s: longest duration of `shutdown` in seconds.
    """

    spool: SpoolOptions = field(default_factory=SpoolOptions)
    retry: RetryPolicy | None = None
    max_queue_size: int = 10_000
    shutdown_timeout_s: float = 4.0


class ExportProcessor(SingletonProcessor):
    """Sends in batches the spans that `select` returns.

    Args:
        encode: spans to a request body, which is sent compressed.
        splitter: splits an uncompressed body in two.
        transport: sends a compressed body.
        options: limits.
        max_batch_size: spans in one request.
        pause: sleeps for a number of seconds between slices of work.
    """

    def __init__(
        self,
        encode: Encoder,
        splitter: Splitter,
        transport: HttpTransport,
        *,
        options: ExportOptions,
        max_batch_size: int,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._encode = encode
        self._splitter = splitter
        self._transport = transport
        self._limits = options
        self._max_queue_size = options.max_queue_size
        self._max_batch_size = max_batch_size
        self._pause = pause
        self._start()
        _restart_after_fork(self)

    @abstractmethod
    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        """Return the spans to send now that `spans` have ended; called on the spooling thread.

        Args:
            is_last: True in the last call, which must not hold spans back.
        """

    def reset_after_fork(self) -> None:
        """Discard held-back spans and connections in a forked child; the parent process sends and uses them."""

    @property
    def accounting(self) -> SpanAccounting:
        """The counters in which `select` records spans that it discards."""
        return self._accounting

    def stats(self) -> ExportStats:
        """Return the current span counts."""
        self._drain_queue()
        counts = self._accounting.stats()
        return replace(
            counts,
            spooled=self._spool.spans_on_disk,
            spool_bytes=self._spool.size_bytes,
            last_error=self._sender.last_error or self._spool_error or self._spool.stall(),
        )

    def sampled_out(self, count: int) -> None:
        """Count spans of traces that the tail sampler discarded."""
        self._sampled_out.append(count)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span; count it as dropped if the queue is full."""
        if (context := span.get_span_context()) is not None and not context.trace_flags.sampled:
            return
        in_memory = self._accounting.waiting - self._spool.spans_on_disk
        # None stands for a dropped span: counting it here would take a lock.
        self._ended.append(span if in_memory + len(self._ended) < self._max_queue_size else None)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until the spans that ended before are sent, and return whether that was done in time."""
        flushed = threading.Event()
        self._flushes.append(flushed)
        until_s = time.monotonic() + timeout_millis / 1000
        while self._send_thread.is_alive() and (left_s := until_s - time.monotonic()) > 0:
            if flushed.wait(min(left_s, _POLL_S)):
                return True
        return flushed.is_set()

    def shutdown(self) -> None:
        """Send the waiting spans until the timeout; the rest stays on disk or, without a disk, is dropped."""
        if self._shutdown.requested.is_set():
            return
        self._shutdown.begin(self._limits.shutdown_timeout_s)
        self._spool_thread.join(max(self._shutdown.remaining_s, 0.0))
        self._await_send_thread()
        self._drain_queue()
        self._spool.close(timeout_s=max(self._shutdown.remaining_s, _POLL_S))
        kept = self._spool.spans_on_disk
        lost = self._accounting.close(kept=kept)
        if kept:
            _logger.info("exporter closed, %d spans wait on disk for the next start", kept)
        if lost:
            _logger.warning("exporter closed, %d spans that were only in memory are lost", lost)

    def before_fork(self) -> bool:
        """Lock the spool and return whether `after_fork_in_parent` has to unlock it."""
        return self._spool.before_fork()

    def after_fork_in_parent(self) -> None:
        """Unlock the spool."""
        self._spool.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Start with empty queues, own locks, threads and files: the parent keeps its own."""
        self._spool.after_fork_in_child()
        if not self._shutdown.requested.is_set():
            self.reset_after_fork()
            self._start()

    def _start(self) -> None:
        self._ended: deque[ReadableSpan | None] = deque()
        self._sampled_out: deque[int] = deque()
        self._pending: list[ReadableSpan] = []
        self._pending_lock = threading.Lock()
        self._spool_error = ""
        self._flushes: deque[threading.Event] = deque()
        self._accounting = SpanAccounting()
        self._shutdown = ShutdownState()
        self._spool = Spool(self._limits.spool, self._accounting)
        self._sender = SpanSender(
            self._transport,
            self._spool,
            self._accounting,
            splitter=self._split_compressed,
            retry=self._limits.retry or RetryPolicy(),
            shutdown=self._shutdown,
        )
        self._spool_thread = threading.Thread(target=self._spool_until_shutdown, name="forge-export", daemon=True)
        self._send_thread = threading.Thread(target=self._sender.run, name="forge-export-send", daemon=True)
        self._spool_thread.start()
        self._send_thread.start()

    def _await_send_thread(self) -> None:
        """Wait while spans are sent; if all are on disk, stop waiting when the server accepts none for 1.5 s."""
        exported, progress_s = -1, time.monotonic()
        while self._send_thread.is_alive() and self._shutdown.remaining_s > 0:
            if (current := self._accounting.stats().exported) != exported:
                exported, progress_s = current, time.monotonic()
            elif self._spool.is_durable and time.monotonic() - progress_s > _NO_PROGRESS_S:
                return
            self._send_thread.join(min(_POLL_S, self._shutdown.remaining_s))

    def _spool_until_shutdown(self) -> None:
        is_last = False
        while not is_last:
            # Polled: waking this thread for each span would take a lock, see the module docstring.
            is_last = self._shutdown.requested.wait(_POLL_S)
            # Taken before the spans: spans that ended before a flush are among them.
            flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
            try:
                self._spool_ended(is_last=is_last)
            # BaseException: a Rust extension's PanicException is one, and would end the thread in silence.
            except BaseException as exc:
                self._spool_error = type(exc).__name__
                _logger.exception("span export failed unexpectedly, a batch may be lost")
            else:
                self._spool_error = ""
            self._sender.flushes.extend(flushes)
        self._shutdown.spooling_ended.set()

    def _spool_ended(self, *, is_last: bool) -> None:
        self._drain_queue()
        with self._pending_lock:
            pending, self._pending = self._pending, []
        selected: list[ReadableSpan] = []
        for part in self._slices(pending):
            selected += self.select(part, is_last=False)
        selected += self.select([], is_last=is_last)
        for start in range(0, len(selected), self._max_batch_size):
            self._spool.put(self._batches(selected[start : start + self._max_batch_size]))

    def _slices(self, spans: Sequence[ReadableSpan]) -> Iterator[Sequence[ReadableSpan]]:
        """Yield slices of `spans` and pause after each for as long as it took, unless the queue fills up."""
        for start in range(0, len(spans), _SLICE_SPANS):
            began_s = time.monotonic()
            yield spans[start : start + _SLICE_SPANS]
            if not self._shutdown.requested.is_set() and len(self._ended) < self._max_queue_size // 4:
                self._pause(min(time.monotonic() - began_s, _MAX_PAUSE_S))

    def _batches(self, spans: Sequence[ReadableSpan]) -> list[Batch]:
        try:
            # Concatenated protobuf messages are one message: repeated fields add up.
            body = b"".join([self._encode(part) for part in self._slices(spans)])
            return [Batch(body=_compress(body), span_count=len(spans))]
        except Exception:
            # Attributes come from any instrumentation: one span that cannot be encoded must not cost the rest.
            _logger.debug("batch of %d spans cannot be encoded", len(spans), exc_info=True)
        if len(spans) == 1:
            self._accounting.mark_dropped(1, "unreadable")
            return []
        half = len(spans) // 2
        return [*self._batches(spans[:half]), *self._batches(spans[half:])]

    def _split_compressed(self, body: bytes) -> tuple[bytes, bytes]:
        first, second = self._splitter(gzip.decompress(body))
        return _compress(first), _compress(second)

    def _drain_queue(self) -> None:
        """Count the ended spans and move them to the pending ones."""
        with self._pending_lock:
            # A fixed number: draining until the queue is empty might not end while spans keep ending.
            ended = [self._ended.popleft() for _ in range(len(self._ended))]
            spans = [span for span in ended if span is not None]
            self._pending += spans
            self._accounting.add_produced(len(spans), overflow=len(ended) - len(spans))
            sampled_out = sum(self._sampled_out.popleft() for _ in range(len(self._sampled_out)))
            self._accounting.add_produced(sampled_out)
            self._accounting.mark_sampled_out(sampled_out)


def _compress(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=3)


def _restart_after_fork(processor: ExportProcessor) -> None:
    """Restart `processor` in forked children, without keeping it alive."""
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(processor)
    locked: list[ExportProcessor] = []

    def before() -> None:
        if (found := reference()) is not None and found.before_fork():
            locked.append(found)

    def in_parent() -> None:
        while locked:
            locked.pop().after_fork_in_parent()

    def in_child() -> None:
        locked.clear()
        if (found := reference()) is not None:
            found.after_fork_in_child()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def shut_down_concurrently(processors: Sequence[SpanProcessor]) -> None:
    """Shut down `processors` in parallel: an unavailable server may cost each of them the whole timeout."""

    def shut_down(processor: SpanProcessor) -> None:
        try:
            processor.shutdown()
        except Exception:
            _logger.exception("shutdown of span processor %s failed", type(processor).__name__)

    threads = [threading.Thread(target=shut_down, args=(processor,), daemon=True) for processor in processors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
