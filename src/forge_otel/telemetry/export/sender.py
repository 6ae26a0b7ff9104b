"""Sending of spooled batches: which responses are retried, which batches are split and which are dropped.

One request is open at a time. A retryable error is retried until the batch exceeds the spool's age limit.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from forge_otel._internal.backoff import Backoff
from forge_otel.telemetry.export.accounting import SpanAccounting
from forge_otel.telemetry.export.http import HttpResponse, HttpTransport
from forge_otel.telemetry.export.spool import Batch, PendingBatch, Spool

__all__ = ["RetryPolicy", "ShutdownState", "SpanSender", "Splitter"]

_logger = logging.getLogger(__name__)

_TOO_LARGE: Final = 413
# Credentials, URL or proxy are wrong, which an operator can correct without losing spans (401, 403, 404, 407), or the
# server asks for time (408, 425, 429).
_RETRYABLE: Final = frozenset({401, 403, 404, 407, 408, 425, 429})
_LOG_EVERY_S: Final = 60.0
_POLL_S: Final = 0.1
_ADOPT_EVERY_S: Final = 30.0
_PAUSE_AFTER_BUG_S: Final = 1.0

Splitter = Callable[[bytes], tuple[bytes, bytes]]
"""Splits a body with several spans in two; the first part has half of them, rounded down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Time limits and back-off of export requests.

    Args:
        attempt_timeout_s: limit of one request in seconds.
        rotate_after_s: seconds after which a batch that still fails moves to the end of the queue.
        initial_backoff_s: longest pause before the second attempt in seconds; it doubles with each attempt.
        max_backoff_s: longest pause in seconds, unless the server requests a longer one.
    """

    attempt_timeout_s: float = 10.0
    rotate_after_s: float = 300.0
    initial_backoff_s: float = 0.5
    max_backoff_s: float = 15.0


class ShutdownState:
    """Deadline and progress of an exporter's shutdown, shared by its threads."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.spooling_ended = threading.Event()
        """Set when no more batches are added to the spool."""
        self._deadline_s = float("inf")

    def begin(self, timeout_s: float) -> None:
        """Request the shutdown; the threads end within `timeout_s` seconds."""
        self._deadline_s = time.monotonic() + timeout_s
        self.requested.set()

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline; inf before the shutdown."""
        return self._deadline_s - time.monotonic()


class SpanSender:
    """Sends the batches of a spool and counts the result of each span.

    Args:
        transport: posts a body.
        spool: holds the batches.
        accounting: counts exported and dropped spans.
        splitter: splits a batch that is too large.
        retry: time limits and back-off.
        shutdown: deadline of the exporter.
    """

    def __init__(
        self,
        transport: HttpTransport,
        spool: Spool,
        accounting: SpanAccounting,
        *,
        splitter: Splitter,
        retry: RetryPolicy,
        shutdown: ShutdownState,
    ) -> None:
        self._transport = transport
        self._spool = spool
        self._accounting = accounting
        self._splitter = splitter
        self._retry = retry
        self._shutdown = shutdown
        self._backoff = Backoff(first_s=retry.initial_backoff_s, longest_s=retry.max_backoff_s)
        # The batch at the head of the spool that failed, and since when it fails.
        self._failing: tuple[object, int] = (None, 0)
        self._failing_since_s = 0.0
        self._failed_in_shutdown = False
        self._logged_s = self._adopted_s = float("-inf")
        self.flushes: deque[threading.Event] = deque()
        """Set, in order, when the batches that were spooled before are sent."""
        self.last_error = ""

    def run(self) -> None:
        """Send batches until the shutdown is complete."""
        while not self._is_finished():
            # Taken before the spool is read: batches that were spooled before the flush are in it then.
            flushes = [self.flushes.popleft() for _ in range(len(self.flushes))]
            try:
                is_empty = self._send_next()
            # BaseException: a Rust extension's PanicException is one, and would end the thread in silence.
            except BaseException as exc:
                self.last_error = type(exc).__name__
                _logger.exception("span export failed unexpectedly and is tried again")
                is_empty = False
                self._shutdown.requested.wait(_PAUSE_AFTER_BUG_S)
            if not is_empty:
                self.flushes.extendleft(reversed(flushes))
                continue
            for flushed in flushes:
                flushed.set()
            if not self._shutdown.spooling_ended.is_set():
                time.sleep(_POLL_S)
        self._transport.close()

    def _is_finished(self) -> bool:
        if not self._shutdown.requested.is_set():
            return False
        if self._shutdown.remaining_s <= 0:
            return True
        if not self._shutdown.spooling_ended.is_set():
            return False
        # The next process sends what is on disk, so an unavailable server need not delay the end of this one.
        return self._spool.head() is None or (self._failed_in_shutdown and self._spool.is_durable)

    def _send_next(self) -> bool:
        """Send the next batch and return whether the spool was empty."""
        now_s = time.monotonic()
        if now_s - self._adopted_s >= _ADOPT_EVERY_S:
            self._adopted_s = now_s
            self._spool.adopt()
        pending = self._spool.head()
        if pending is None:
            return True
        # A request must not outlast the shutdown.
        timeout_s = min(self._retry.attempt_timeout_s, self._shutdown.remaining_s)
        if timeout_s > 0:
            is_shutting_down = self._shutdown.requested.is_set()
            self._handle(pending, self._transport.post(pending.batch.body, timeout_s=timeout_s))
            self._failed_in_shutdown = is_shutting_down and bool(self.last_error)
        return False

    def _handle(self, pending: PendingBatch, response: HttpResponse) -> None:
        status, count = response.status, pending.batch.span_count
        if status is None or status in _RETRYABLE or status >= 500:
            self._retry_later(pending, response)
            return
        self.last_error = ""
        self._backoff.reset()
        if status < 300:
            self._spool.remove(pending, account=self._accounting.mark_exported)
        elif status == _TOO_LARGE and count > 1:
            first, second = self._splitter(pending.batch.body)
            # Parts keep the age of the batch, so that splitting does not extend the age limit.
            created_s = pending.batch.created_s
            parts = [
                Batch(body=first, span_count=count // 2, created_s=created_s),
                Batch(body=second, span_count=count - count // 2, created_s=created_s),
            ]
            self._spool.remove(pending, requeue=parts)
        else:
            reason = "too_large" if status == _TOO_LARGE else "refused"
            self._spool.remove(pending, account=lambda spans: self._accounting.mark_dropped(spans, reason))
            self._log("span export rejected, %d spans dropped (%s): %s", count, reason, response.error)

    def _retry_later(self, pending: PendingBatch, response: HttpResponse) -> None:
        self.last_error = response.error
        self._log("span export unavailable, %d spans queued: %s", self._accounting.waiting, response.error)
        pause_s = max(response.retry_after_s, self._backoff.next_s())
        self._rotate(pending)
        self._pause(pause_s)

    def _rotate(self, pending: PendingBatch) -> None:
        """Move a batch that fails for too long to the end of the queue."""
        now_s = time.monotonic()
        if self._failing != (pending.segment, pending.seq):
            self._failing, self._failing_since_s = (pending.segment, pending.seq), now_s
        # The server may fail on the contents of this batch only, which must not hold up those behind it.
        elif now_s - self._failing_since_s > self._retry.rotate_after_s and self._spool.has_more():
            self._spool.remove(pending, requeue=[pending.batch])

    def _pause(self, pause_s: float) -> None:
        """Wait for `pause_s` seconds, or until the shutdown begins: it makes one more attempt at once."""
        if self._shutdown.requested.is_set():
            time.sleep(max(min(pause_s, self._shutdown.remaining_s), 0.0))
        else:
            self._shutdown.requested.wait(pause_s)

    def _log(self, message: str, *values: object) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            _logger.warning(message, *values)
