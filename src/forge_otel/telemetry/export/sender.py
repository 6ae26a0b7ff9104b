"""Batches of spans to a server that may say no: what is tried again, what is split, what is given up.

One batch is sent at a time. What another attempt may change is tried until it is too old, also a wrong key or address,
which somebody will mend; a batch that the server keeps choking on lets those behind it pass now and then.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from forge_otel.telemetry.export.accounting import SpanAccounting
from forge_otel.telemetry.export.http import HttpResponse
from forge_otel.telemetry.export.spool import Batch, PendingBatch, Spool

__all__ = ["Closing", "RetryPolicy", "SpanSender", "Splitter", "Transport"]

logger = logging.getLogger(__name__)

_TOO_LARGE: Final = 413
# The key, the address or a proxy is wrong, or the server asks for time.
_PASSING: Final = frozenset({401, 403, 404, 407, 408, 425, 429})
_LOG_EVERY_S: Final = 60.0
_POLL_S: Final = 0.1
_ADOPT_EVERY_S: Final = 30.0

Splitter = Callable[[bytes], tuple[bytes, bytes]]
"""A body with several spans to two, the first with half of them rounded down."""


class Transport(Protocol):
    """Posts bodies."""

    def __call__(self, body: bytes, timeout_s: float) -> HttpResponse:
        """Post `body` once; whatever goes wrong is in the answer."""
        ...

    def close(self) -> None:
        """Close what is kept open between bodies."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient a delivery is.

    Args:
        attempt_timeout_s: for one request.
        budget_s: for one batch, after which those behind it are tried first.
        first_wait_s: before the second attempt; doubled from then on.
        max_wait_s: no wait is longer, unless the server asks for it.
    """

    attempt_timeout_s: float = 10.0
    budget_s: float = 300.0
    first_wait_s: float = 0.5
    max_wait_s: float = 15.0


class Closing:
    """Says when everything has to be over; until then there is no end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.is_last = threading.Event()
        """Nothing is put into the spool any more."""
        self._until_s = float("inf")

    def begin(self, timeout_s: float) -> None:
        """Have everything over in `timeout_s`."""
        self._until_s = time.monotonic() + timeout_s
        self.begun.set()

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._until_s - time.monotonic()


class SpanSender:
    """Empties the spool, and enters in the ledger what became of each span.

    Args:
        post: sends a body.
        halve: splits one that is too large.
    """

    def __init__(
        self,
        post: Transport,
        spool: Spool,
        ledger: SpanAccounting,
        *,
        halve: Splitter,
        policy: RetryPolicy,
        closing: Closing,
    ) -> None:
        self._post = post
        self._spool = spool
        self._ledger = ledger
        self._halve = halve
        self._policy = policy
        self._closing = closing
        self._wait_s = policy.first_wait_s
        # What is tried, and since when.
        self._head: tuple[object, int] = (None, 0)
        self._head_since_s = 0.0
        self._failed_at_end = False
        self._logged_s = self._adopted_s = float("-inf")
        self.flushes: deque[threading.Event] = deque()
        self.fault = ""

    def run(self) -> None:
        """Send what there is until the end has come."""
        while not self._is_over():
            # Taken before the spool is looked at: what was put there before the flush is among it.
            flushes = [self.flushes.popleft() for _ in range(len(self.flushes))]
            try:
                is_empty = self._step()
            except Exception:
                logger.exception("An export failed in a way that it should not")
                is_empty = False
                self._closing.begun.wait(1.0)
            if not is_empty:
                self.flushes.extendleft(reversed(flushes))
                continue
            for flushed in flushes:
                flushed.set()
            if not self._closing.is_last.is_set():
                time.sleep(_POLL_S)
        self._post.close()

    def _is_over(self) -> bool:
        if not self._closing.begun.is_set():
            return False
        if self._closing.left_s <= 0:
            return True
        if not self._closing.is_last.is_set():
            return False
        # What is on disk is sent by the next process: a server that is away need not hold up the end of this one.
        return self._spool.head() is None or (self._failed_at_end and self._spool.is_durable)

    def _step(self) -> bool:
        """Send one batch; return whether there was none."""
        now_s = time.monotonic()
        if now_s - self._adopted_s >= _ADOPT_EVERY_S:
            self._adopted_s = now_s
            self._spool.adopt()
        held = self._spool.head()
        if held is None:
            return True
        timeout_s = min(self._policy.attempt_timeout_s, self._closing.left_s)
        if timeout_s > 0:
            is_ending = self._closing.begun.is_set()
            self._settle(held, self._post(held.parcel.body, timeout_s))
            self._failed_at_end = is_ending and bool(self.fault)
        return False

    def _settle(self, held: PendingBatch, answer: HttpResponse) -> None:
        status, count = answer.status, held.parcel.count
        if status is None or status in _PASSING or status >= 500:
            self._try_later(held, answer)
            return
        self.fault, self._wait_s = "", self._policy.first_wait_s
        if status < 300:
            self._spool.settle(held, book=self._ledger.exported)
        elif status == _TOO_LARGE and count > 1:
            first, second = self._halve(held.parcel.body)
            at_s = held.parcel.at_s
            halves = [
                Batch(body=first, count=count // 2, at_s=at_s),
                Batch(body=second, count=count - count // 2, at_s=at_s),
            ]
            self._spool.settle(held, requeue=halves)
        else:
            reason = "too_large" if status == _TOO_LARGE else "refused"
            self._spool.settle(held, book=lambda spans: self._ledger.dropped(spans, reason))
            self._report("%d spans were not exported (%s: %s); see forge.export.settled", count, reason, answer.fault)

    def _try_later(self, held: PendingBatch, answer: HttpResponse) -> None:
        self.fault = answer.fault
        self._report("spans cannot be exported now (%s) and wait; see forge.export.waiting", answer.fault)
        pause_s = max(answer.retry_after_s, self._wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        self._wait_s = min(2 * self._wait_s, self._policy.max_wait_s)
        self._let_others_pass(held)
        self._pause(pause_s)

    def _let_others_pass(self, held: PendingBatch) -> None:
        now_s = time.monotonic()
        if self._head != (held.shelf, held.seq):
            self._head, self._head_since_s = (held.shelf, held.seq), now_s
        elif now_s - self._head_since_s > self._policy.budget_s and self._spool.has_more():
            self._spool.settle(held, requeue=[held.parcel])

    def _pause(self, pause_s: float) -> None:
        """Wait; where the end begins meanwhile, try once more at once."""
        if self._closing.begun.is_set():
            time.sleep(max(min(pause_s, self._closing.left_s), 0.0))
        else:
            self._closing.begun.wait(pause_s)

    def _report(self, message: str, *facts: object) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            logger.warning(message, *facts)
