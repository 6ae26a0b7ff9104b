"""Links to runs, and scores on them, sent in the background.

The id of a run follows from its span id, so its URL is known before the run has arrived. The project's part of the URL
is looked up once in the background; there are no links before. Scores wait in a bounded queue.
"""

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar
from uuid import UUID

from opentelemetry.trace import SpanContext

from forge_otel._internal.backoff import Backoff
from forge_otel._internal.tasks import BackgroundTask
from forge_otel._internal.worker_thread import run_in_daemon_thread
from forge_otel.errors import ConfigurationError, MissingExtra
from forge_otel.names import Attr, Metric
from forge_otel.resilience.guard import Guards
from forge_otel.telemetry.langsmith.settings import LangSmithOptions, is_sampled
from forge_otel.telemetry.metrics.instruments import Instruments

if TYPE_CHECKING:
    # Importing the client takes half a second; `_create_client` does it in a thread.
    from forge_otel.telemetry.langsmith.client import LangSmithClient, LangSmithProject

__all__ = ["LangSmithFeedback", "run_id"]

_logger = logging.getLogger(__name__)

_MAX_QUEUED: Final = 1_000
_MAX_ATTEMPTS: Final = 20
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_FLUSH_TIMEOUT_S: Final = 1.0
_SCORE_KEY: Final = "quality_score"
_SERVICE: Final = "langsmith"

T = TypeVar("T")


@dataclass(slots=True)
class _QueuedScore:
    run_id: UUID
    score: float
    generation_id: str
    started_at: datetime
    attempts: int = 0


def run_id(context: SpanContext) -> UUID:
    """Return the id of the run that LangSmith makes of a span: eight zero bytes, then the span id."""
    return UUID(int=context.span_id)


class LangSmithFeedback:
    """Returns the URLs of runs and sends scores while it is entered; without an API key it does neither.

    Args:
        guards: the guard of `langsmith` is applied to each call of the API.
        instruments: report the number of queued, sent and dropped scores.
    """

    def __init__(self, guards: Guards, instruments: Instruments) -> None:
        self.is_enabled = False
        """True if LangSmith is configured, set when the forge is opened; hot paths read it instead of calling."""
        self._guards = guards
        self._instruments = instruments
        self._options: LangSmithOptions | None = None
        self._project: LangSmithProject | None = None
        self._queue: deque[_QueuedScore] = deque()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._sender: BackgroundTask | None = None
        self._queued = asyncio.Event()
        self._emptied = asyncio.Event()
        self._unobserve: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        options = None
        with suppress(ConfigurationError):
            # The exporter reads the same variables and raises the error.
            options = LangSmithOptions.from_env(os.environ)
        client = None if options is None else await _create_client(options)
        if client is not None:
            self._options = options
            self.is_enabled = True
            self._unobserve = [
                self._instruments.observe(Metric.FEEDBACK_SETTLED, self._outcome_points),
                self._instruments.observe(Metric.FEEDBACK_WAITING, lambda: [(len(self._queue), {})]),
            ]
            self._sender = BackgroundTask(partial(self._send_queued, client), name="forge-langsmith")
            self._sender.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sender, self._sender = self._sender, None
        if sender is None:
            return
        if self._queue and self._project is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), _FLUSH_TIMEOUT_S)
        await sender.stop()
        if self._queue:
            _logger.warning("LangSmith feedback closed, %d scores dropped", len(self._queue))
            self._outcomes["dropped", "shutdown"] += len(self._queue)
            self._queue.clear()
        for unobserve in self._unobserve:
            unobserve()

    def run_url(self, context: SpanContext) -> str:
        """Return the URL of a span's run; "" if the project is not known yet or the run is not sent."""
        if self._options is None or self._project is None or not self._project.url:
            return ""
        if not context.is_valid or not is_sampled(context.trace_id, self._options.sampling_rate):
            return ""
        return f"{self._project.url}/r/{run_id(context)}?poll=true"

    def score(self, context: SpanContext, score: float, *, generation_id: str, started_at: datetime) -> None:
        """Queue a score for the run of a span.

        Args:
            generation_id: identifies the score, so that a retry does not add a second one.
            started_at: start of the generation.
        """
        if self._options is None or not context.is_valid:
            return
        if not is_sampled(context.trace_id, self._options.sampling_rate):
            return
        if len(self._queue) >= _MAX_QUEUED:
            self._outcomes["dropped", "queue_full"] += 1
            return
        self._queue.append(_QueuedScore(run_id(context), score, generation_id, started_at))
        self._emptied.clear()
        self._queued.set()

    def _outcome_points(self) -> list[tuple[float, dict[str, str | bool | int | float]]]:
        return [
            (count, {Attr.OUTCOME: outcome, **({Attr.REASON: reason} if reason else {})})
            for (outcome, reason), count in self._outcomes.items()
        ]

    async def _send_queued(self, client: "LangSmithClient") -> None:
        backoff = Backoff(first_s=_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
        while True:
            try:
                succeeded = await self._send_next(client)
            except Exception as exc:
                # An open guard, the network, or an incompatible client: all are tried again later.
                _logger.debug("LangSmith API unavailable: %s", type(exc).__name__)
                succeeded = False
            if succeeded:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    async def _send_next(self, client: "LangSmithClient") -> bool:
        """Look up the project, or send the next score, and return whether that succeeded."""
        if self._project is None:
            self._project = await self._call(client.find_project)
            return self._project is not None
        self._queued.clear()
        if not self._queue:
            await self._queued.wait()
        item = self._queue[0]
        item.attempts += 1
        send = partial(
            client.score,
            self._project,
            item.run_id,
            key=_SCORE_KEY,
            score=item.score,
            score_id=item.generation_id,
            started_at=item.started_at,
        )
        try:
            await self._call(send)
        except Exception:
            if item.attempts >= _MAX_ATTEMPTS:
                self._complete("dropped", "undeliverable")
            raise
        self._complete("sent", "")
        return True

    async def _call(self, function: Callable[[], T]) -> T:
        # A thread of the default executor would delay the exit while LangSmith hangs.
        return await self._guards.get(_SERVICE).call(lambda: run_in_daemon_thread(function, name="forge-langsmith"))

    def _complete(self, outcome: str, reason: str) -> None:
        self._queue.popleft()
        self._outcomes[outcome, reason] += 1
        if not self._queue:
            self._emptied.set()


async def _create_client(options: LangSmithOptions) -> "LangSmithClient | None":
    """Import and create the client at startup, in a thread: later, every request would wait for the import."""

    def create() -> "LangSmithClient":
        from forge_otel.telemetry.langsmith.client import LangSmithClient

        return LangSmithClient(options)

    try:
        return await run_in_daemon_thread(create, name="forge-langsmith")
    except MissingExtra as exc:
        _logger.warning("LangSmith client unavailable, runs are not linked and not scored: %s", exc.faults[0])
    except Exception:
        # Links and scores are optional: the service starts without them.
        _logger.exception("LangSmith client cannot be created, runs are not linked and not scored")
    return None
