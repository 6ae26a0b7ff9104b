"""A span processor with a bounded queue and one thread that empties it.

The call that ends a span only appends it. It takes no lock, because the garbage collector may end spans in the middle
of anything, and it never waits. A span that there is no room for leaves an empty place, so that it is still counted.
"""

import logging
import os
import threading
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from forge_otel.telemetry.export_delivery import Closing, Delivery, Encode, Post, RetryPolicy
from forge_otel.telemetry.export_ledger import ExportStats, Ledger
from forge_otel.telemetry.switchboard import Exclusive

__all__ = ["ExportQueue"]

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.25


class ExportQueue(Exclusive):
    """Takes ended spans, and sends in batches what `select` makes of them.

    Args:
        encode: spans to a request body.
        post: sends a body.
        policy: how patient it is.
        max_waiting: spans, in the queue and under way, above which new ones are dropped.
        max_batch: spans in one request.
        shutdown_timeout_s: how long `shutdown` may take.
    """

    def __init__(
        self,
        encode: Encode,
        post: Post,
        *,
        policy: RetryPolicy | None = None,
        max_waiting: int = 10_000,
        max_batch: int = 200,
        shutdown_timeout_s: float = 4.0,
    ) -> None:
        self._encode = encode
        self._post = post
        self._policy = policy or RetryPolicy()
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._shutdown_timeout_s = shutdown_timeout_s
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
    def ledger(self) -> Ledger:
        """Where `select` enters what will not be sent."""
        return self._ledger

    def stats(self) -> ExportStats:
        """Return what became of the spans so far."""
        self._take_in()
        return self._ledger.stats()

    def on_end(self, span: ReadableSpan) -> None:
        """Put the span in the queue, if there is room."""
        has_room = self._ledger.waiting + len(self._arrived) < self._max_waiting
        self._arrived.append(span if has_room else None)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until what has ended is sent, as far as it can be; return whether there was time for it."""
        if not self._thread.is_alive():
            return False
        flushed = threading.Event()
        self._flushes.append(flushed)
        return flushed.wait(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Send what waits, as long as there is time, and give up the rest."""
        self._closing.begin(self._shutdown_timeout_s)
        self._thread.join(self._shutdown_timeout_s)
        self._take_in()
        self._ledger.close()

    def _restart(self) -> None:
        self._arrived: deque[ReadableSpan | None] = deque()
        self._taken: list[ReadableSpan] = []
        self._taking = threading.Lock()
        self._flushes: deque[threading.Event] = deque()
        self._ledger = Ledger()
        self._closing = Closing()
        self._delivery = Delivery(
            self._encode,
            self._post,
            self._ledger,
            policy=self._policy,
            closing=self._closing,
            while_waiting=self._take_in,
        )
        self._thread = threading.Thread(target=self._run, name="forge-export", daemon=True)
        self._thread.start()

    def _after_fork(self) -> None:
        # The threads of the parent do not live here, and its locks may be held for ever.
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
                self._export(is_last=is_last)
            except Exception:
                logger.exception("An export failed in a way that it should not")
            for flushed in flushes:
                flushed.set()
        self._post.close()

    def _export(self, *, is_last: bool) -> None:
        self._take_in()
        with self._taking:
            taken, self._taken = self._taken, []
        ready = self.select(taken, is_last=is_last)
        for start in range(0, len(ready), self._max_batch):
            self._delivery.send(ready[start : start + self._max_batch])

    def _take_in(self) -> None:
        """Count what has arrived, and have it ready for the next export."""
        with self._taking:
            # As many as there are now: others arrive meanwhile, for as long as one looks.
            arrived = [self._arrived.popleft() for _ in range(len(self._arrived))]
            spans = [span for span in arrived if span is not None]
            self._taken += spans
            self._ledger.take(len(spans), overflow=len(arrived) - len(spans))


def _revive_after_fork(queue: ExportQueue) -> None:
    """Restart `queue` in forked children for as long as anybody holds it."""
    if not hasattr(os, "register_at_fork"):
        return
    held = weakref.ref(queue)

    def revive() -> None:
        if (found := held()) is not None:
            found._after_fork()  # noqa: SLF001 - a method that only forks may call

    os.register_at_fork(after_in_child=revive)
