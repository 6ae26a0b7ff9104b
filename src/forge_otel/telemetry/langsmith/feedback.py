"""Links to runs and scores on them, never in the caller's way.

A run's id follows from its span id, so that its URL is known before the run has arrived; the project's part of the URL
is asked for in the background, and until it is known there is no link. Scores wait in a bounded queue.
"""

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar
from uuid import UUID

from opentelemetry.trace import SpanContext

from forge_otel._internal.worker_thread import run_in_daemon_thread
from forge_otel.errors import ConfigurationError, MissingExtra
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.langsmith.settings import LangSmithOptions, is_sampled
from forge_otel.telemetry.metrics.instruments import Instruments

if TYPE_CHECKING:
    from forge_otel.telemetry.langsmith.client import LangSmithClient, LangSmithProject

__all__ = ["LangSmithFeedback", "run_id"]

logger = logging.getLogger(__name__)

_MAX_WAITING: Final = 1_000
_MAX_ATTEMPTS: Final = 20
_FIRST_WAIT_S: Final = 1.0
_MAX_WAIT_S: Final = 60.0
_CLOSING_S: Final = 1.0
_KEY: Final = "quality_score"


T = TypeVar("T")


class Guards(Protocol):
    """Has a guard for each service."""

    def get(self, name: str, /) -> Any:
        """Return it, made when it is first asked for; its `call` awaits a function under all policies."""
        ...


@dataclass(slots=True)
class _Score:
    run_id: UUID
    score: float
    about: str
    started_at: datetime
    attempts: int = 0


def run_id(context: SpanContext) -> UUID:
    """Return the id of the run that LangSmith makes of a span: eight zero bytes, then the span id."""
    return UUID(int=context.span_id)


class LangSmithFeedback:
    """Says where a run is shown, and sends scores, while it is entered; without a key it does neither.

    Args:
        guards: that of `langsmith` stands around each call.
        instruments: count what became of the scores.
    """

    def __init__(self, guards: Guards, instruments: Instruments) -> None:
        self._guards = guards
        self._instruments = instruments
        self._options: LangSmithOptions | None = None
        self._project: LangSmithProject | None = None
        self._scores: deque[_Score] = deque()
        self._settled: Counter[tuple[str, str]] = Counter()
        self._work: asyncio.Task[None] | None = None
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._unobserve: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        options = None
        with suppress(ConfigurationError):
            # The bridge itself says what is wrong.
            options = LangSmithOptions.from_env(os.environ)
        client = None if options is None else await _reached(options)
        if client is not None:
            self._options = options
            self._unobserve = [
                self._instruments.observe(Metric.FEEDBACK_SETTLED, self._points),
                self._instruments.observe(Metric.FEEDBACK_WAITING, lambda: [(len(self._scores), {})]),
            ]
            self._work = asyncio.create_task(self._run(client), name="forge-langsmith")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        work, self._work = self._work, None
        if work is None:
            return
        if self._scores and self._project is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), _CLOSING_S)
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        if self._scores:
            logger.warning("%d scores did not reach LangSmith", len(self._scores))
            self._settled["dropped", "shutdown"] += len(self._scores)
            self._scores.clear()
        for end in self._unobserve:
            end()

    def run_url(self, context: SpanContext) -> str:
        """Return where the run of a span is shown; "" where that is not known, or the run is not sent."""
        if self._options is None or self._project is None or not self._project.url:
            return ""
        if not context.is_valid or not is_sampled(context.trace_id, self._options.sampling_rate):
            return ""
        return f"{self._project.url}/r/{run_id(context)}?poll=true"

    def score(self, context: SpanContext, score: float, *, about: str, started_at: datetime) -> None:
        """Have a score put on the run of a span; returns at once.

        Args:
            about: the generation's id.
            started_at: when it began.
        """
        if self._options is None or not context.is_valid:
            return
        if not is_sampled(context.trace_id, self._options.sampling_rate):
            return
        if len(self._scores) >= _MAX_WAITING:
            self._settled["dropped", "queue_full"] += 1
            return
        self._scores.append(_Score(run_id(context), score, about, started_at))
        self._empty.clear()
        self._more.set()

    def _points(self) -> list[tuple[float, dict[str, Any]]]:
        return [
            (count, {Attr.OUTCOME: outcome, **({Attr.REASON: reason} if reason else {})})
            for (outcome, reason), count in self._settled.items()
        ]

    async def _run(self, client: "LangSmithClient") -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                is_done = await self._step(client)
            except Exception as exc:
                # Its guard, the network, or a client that changed: whatever it is, it is tried again later.
                logger.debug("LangSmith does not answer: %s", type(exc).__name__)
                is_done = False
            if is_done:
                wait_s = _FIRST_WAIT_S
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_WAIT_S)

    async def _step(self, client: "LangSmithClient") -> bool:
        """Find the project, or send a score; return whether there was no trouble."""
        if self._project is None:
            self._project = await self._guards.get("langsmith").call(lambda: _in_thread(client.find_project))
            return self._project is not None
        self._more.clear()
        if not self._scores:
            await self._more.wait()
        next_one, project = self._scores[0], self._project
        next_one.attempts += 1
        try:
            await self._guards.get("langsmith").call(lambda: _in_thread(lambda: _send(client, project, next_one)))
        except Exception:
            if next_one.attempts >= _MAX_ATTEMPTS:
                self._settle("dropped", "undeliverable")
            raise
        self._settle("sent", "")
        return True

    def _settle(self, outcome: str, reason: str) -> None:
        self._scores.popleft()
        self._settled[outcome, reason] += 1
        if not self._scores:
            self._empty.set()


def _send(client: "LangSmithClient", project: "LangSmithProject", score: _Score) -> None:
    client.score(project, score.run_id, key=_KEY, score=score.score, about=score.about, started_at=score.started_at)


async def _reached(options: LangSmithOptions) -> "LangSmithClient | None":
    """Make the client before anything is served: its import takes half a second, in which every request would wait."""

    def make() -> "LangSmithClient":
        from forge_otel.telemetry.langsmith.client import LangSmithClient

        return LangSmithClient(options)

    try:
        return await _in_thread(make)
    except MissingExtra as exc:
        logger.warning("Runs in LangSmith are not linked and not scored: %s", exc.faults[0])
    except Exception:
        # A service does not fail to start for want of links.
        logger.exception("Runs in LangSmith are not linked and not scored: its client cannot be made")
    return None


async def _in_thread(call: Callable[[], T]) -> T:
    """Return what `call` does in a daemon thread: one of an executor would hold up the exit while LangSmith hangs."""
    return await run_in_daemon_thread(call, name="forge-langsmith")
