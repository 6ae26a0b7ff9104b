"""Batches of spans to a server that may say no: what is retried, what is split, what is given up."""

import gzip
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from opentelemetry.sdk.trace import ReadableSpan

from forge_otel.telemetry.export_http import Answer
from forge_otel.telemetry.export_ledger import Ledger

__all__ = ["Closing", "Delivery", "Encode", "Post", "RetryPolicy"]

logger = logging.getLogger(__name__)

_TOO_LARGE: Final = 413
_LOG_EVERY_S: Final = 60.0

Encode = Callable[[Sequence[ReadableSpan]], bytes]


class Post(Protocol):
    """Posts bodies."""

    def __call__(self, body: bytes, timeout_s: float) -> Answer:
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
        budget_s: for one batch, all attempts and waits together.
        first_wait_s: before the second attempt; doubled from then on.
        max_wait_s: no wait is longer, unless the server asks for it.
    """

    attempt_timeout_s: float = 10.0
    budget_s: float = 300.0
    first_wait_s: float = 0.5
    max_wait_s: float = 30.0


class Closing:
    """Says when everything has to be over; until then there is no end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._until_s = float("inf")

    def begin(self, timeout_s: float) -> None:
        """Have everything over in `timeout_s`."""
        self._until_s = time.monotonic() + timeout_s
        self.begun.set()

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._until_s - time.monotonic()


class Delivery:
    """Sends batches, and enters in the ledger what became of each span.

    Args:
        encode: spans to a request body.
        post: sends a body.
        while_waiting: called several times a second while a batch waits for its next attempt.
    """

    def __init__(
        self,
        encode: Encode,
        post: Post,
        ledger: Ledger,
        *,
        policy: RetryPolicy,
        closing: Closing,
        while_waiting: Callable[[], None],
    ) -> None:
        self._encode = encode
        self._post = post
        self._ledger = ledger
        self._policy = policy
        self._closing = closing
        self._while_waiting = while_waiting
        self._logged_s = float("-inf")

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Send `spans`, in halves where they are too large together; returns when their fate is known."""
        batches = [list(spans)]
        while batches:
            batch = batches.pop()
            body = self._body(batch)
            answer = None if body is None else self._try(body)
            status = None if answer is None else answer.status
            if len(batch) > 1 and (body is None or status == _TOO_LARGE):
                half = len(batch) // 2
                batches += [batch[half:], batch[:half]]
            elif status is not None and status < 300:
                self._ledger.exported(len(batch))
            else:
                self._give_up(len(batch), "unreadable" if answer is None else _reason(answer, self._closing), answer)

    def _body(self, batch: Sequence[ReadableSpan]) -> bytes | None:
        try:
            return gzip.compress(self._encode(batch), compresslevel=3)
        except Exception:
            # Attributes come from anybody: one span that cannot be encoded must not cost the others.
            logger.debug("A batch of %d spans could not be encoded", len(batch), exc_info=True)
            return None

    def _try(self, body: bytes) -> Answer:
        """Post until there is an answer that another attempt would not change, or no time is left."""
        until_s = time.monotonic() + self._policy.budget_s
        wait_s = self._policy.first_wait_s
        while True:
            timeout_s = min(self._policy.attempt_timeout_s, self._closing.left_s)
            if timeout_s <= 0:
                return Answer(fault="no time left")
            answer = self._post(body, timeout_s)
            pause_s = max(answer.retry_after_s, wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            if not _may_change(answer) or time.monotonic() + pause_s > until_s or self._closing.left_s < pause_s:
                return answer
            self._pause(pause_s)
            wait_s = min(2 * wait_s, self._policy.max_wait_s)

    def _pause(self, pause_s: float) -> None:
        """Wait; where the end begins meanwhile, try once more at once."""
        until_s = time.monotonic() + pause_s
        began = self._closing.begun.is_set()
        while (left_s := until_s - time.monotonic()) > 0:
            self._while_waiting()
            if began:
                time.sleep(min(left_s, 0.25))
            elif self._closing.begun.wait(min(left_s, 0.25)):
                return

    def _give_up(self, count: int, reason: str, answer: Answer | None) -> None:
        self._ledger.dropped(count, reason)
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            fault = answer.fault if answer is not None else "cannot be encoded"
            logger.warning("%d spans were not exported (%s: %s); see forge.export.settled", count, reason, fault)


def _may_change(answer: Answer) -> bool:
    return answer.status is None or answer.status in {408, 429} or answer.status >= 500


def _reason(answer: Answer, closing: Closing) -> str:
    if answer.status == _TOO_LARGE:
        return "too_large"
    if not _may_change(answer):
        return "refused"
    return "shutdown" if closing.begun.is_set() else "undeliverable"
