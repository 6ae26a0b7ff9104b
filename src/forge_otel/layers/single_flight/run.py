"""One run of a pipeline for a key, shared by every caller that waits for it."""

import asyncio
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from opentelemetry import trace

from forge_otel.context import Generation
from forge_otel.layers.result_copies import ResultCopies
from forge_otel.layers.single_flight.progress import EventLog
from forge_otel.types import Call, Reply

__all__ = ["Run", "RunOutcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """Result of a run.

    Args:
        reply: the answer; None if the run failed.
        error: the exception that ended a failed run.
        traceback: of `error` as it left the pipeline.
        is_remote: whether another process produced the outcome.
        is_aborted: whether the run was cancelled because the forge closes.
    """

    reply: Reply | None = None
    error: BaseException | None = None
    traceback: TracebackType | None = None
    is_remote: bool = False
    is_aborted: bool = False


class Run:
    """State of one run in this process; it belongs to one event loop.

    Args:
        call: the first caller's call.
        generation: collects the run's costs and steps; None outside a recorded generation.
    """

    def __init__(self, call: Call, generation: Generation | None) -> None:
        self.call = call
        self.generation = generation
        self.created_s = time.monotonic()
        self.origin = trace.get_current_span().get_span_context()
        self.outcome: asyncio.Future[RunOutcome] = asyncio.get_running_loop().create_future()
        self.event_log = EventLog()
        self.waiters = 0
        self._copies: ResultCopies | None = None
        self.is_orphaned = False
        """True once the first caller has left before the end."""

    @property
    def is_local(self) -> bool:
        """Return whether the pipeline was started in this process."""
        return self.event_log.fence > 0

    def start(self, fence: int) -> None:
        """Mark the run as started in this process, with the run number `fence`."""
        facts = {"pipeline": self.call.pipeline, "component_type": self.call.request.component_type}
        if self.generation is not None:
            self.generation.on_progress = self.event_log.append
            facts["generation_id"] = self.generation.id
        self.event_log.start(fence, facts)

    def finish(self, outcome: RunOutcome) -> None:
        """Close the event log and hand the outcome to all waiting callers."""
        if self.generation is not None:
            self.generation.on_progress = None
        self.event_log.close(*_terminal_event(outcome))
        if outcome.reply is not None:
            # Before any caller has the answer and may change it.
            self._copies = ResultCopies(outcome.reply.result)
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def own_copy(self, reply: Reply) -> Reply:
        """Return the answer of this run with a result that no other caller shares."""
        return reply if self._copies is None else replace(reply, result=self._copies.copy())


def _terminal_event(outcome: RunOutcome) -> tuple[str, dict[str, Any]]:
    if outcome.reply is None:
        return "failed", {"error_type": type(outcome.error).__name__}
    reply = outcome.reply
    facts = {"source": reply.source, "origin_id": reply.origin_id, "cost_usd": str(reply.cost_usd)}
    return "done", facts | {"is_stored": reply.is_stored}
