"""The layer that remembers: one record a generation, journalled before the caller gets the answer."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from forge_otel.context import Generation, current_generation
from forge_otel.errors import BadRequest
from forge_otel.keys import artifact_key
from forge_otel.layers.single_flight.run import RunOutcome
from forge_otel.types import Call, CallNext, GenerationResult, Record, Reply, outcome_of

__all__ = ["Journal", "RecordingLayer", "finite"]

_logger = logging.getLogger(__name__)

_MAX_ERROR_CHARS: Final = 500


class Journal(Protocol):
    """Takes finished records; the outbox is one."""

    async def offer(self, record: Record, /) -> None:
        """Keep the record; returns when it outlives a crash of the process. Never raises."""
        ...

    def offer_nowait(self, record: Record, /) -> None:
        """Keep the record a moment later, for callers that may not wait. Never raises."""
        ...

    def degraded(self) -> list[str]:
        """Return what serves in place of something now, for example `database:outbox`."""
        ...


class RecordingLayer:
    """Makes the record of every generation and offers it to the journal.

    Args:
        journal: where records go.
        pipeline_version: noted on each record.
    """

    def __init__(self, journal: Journal, *, pipeline_version: str) -> None:
        self._journal = journal
        self._pipeline_version = pipeline_version

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call`, and record it whatever happens."""
        generation = current_generation.get()
        if generation is None:
            return await call_next(call)
        for label in self._journal.degraded():
            generation.record_degraded(label)
        try:
            reply = await call_next(call)
        except asyncio.CancelledError as exc:
            # A cancelled task should end now; the record reaches the disk with the next group commit.
            self._journal.offer_nowait(self._record(call, generation, exc=exc))
            raise
        except Exception as exc:
            await self._journal.offer(self._record(call, generation, exc=exc))
            raise
        except BaseException as exc:
            # Whatever ends the process or the task by its own kind of exception may not be held up either.
            self._journal.offer_nowait(self._record(call, generation, exc=exc))
            raise
        await self._journal.offer(self._record(call, generation, reply=reply))
        return reply

    async def record_orphaned(self, call: Call, generation: Generation, outcome: RunOutcome) -> None:
        """Record a run whose caller had left before it ended: it was paid for all the same."""
        await self._journal.offer(self._record(call, generation, reply=outcome.reply, exc=outcome.error))

    def _record(
        self, call: Call, generation: Generation, *, reply: Reply | None = None, exc: BaseException | None = None
    ) -> Record:
        request = call.request
        answered = {} if reply is None else _answered(call, reply)
        return Record(
            id=generation.id,
            created_at=generation.started_at,
            duration_s=time.monotonic() - generation.started_s,
            outcome="ok" if exc is None else outcome_of(exc),
            pipeline=call.pipeline,
            pipeline_version=self._pipeline_version,
            component_type=request.component_type,
            component_id=call.component_id,
            key=call.key,
            component_name=request.component_name,
            figma_key=request.figma_key,
            screenshot_hash=request.screenshot_hash,
            content_hash=request.content_hash,
            pattern_id=request.pattern_id,
            user_id=request.user_id,
            session_id=request.session_id,
            tenant=request.tenant,
            cost_usd=generation.spent_usd,
            costs=tuple(generation.costs),
            steps=tuple(generation.steps),
            misses=dict(generation.misses),
            degraded=tuple(generation.degraded),
            trace_id=generation.trace_id,
            langsmith_url=generation.run_url or None,
            error_type=None if exc is None else type(exc).__name__,
            error_message=None if exc is None else _text(exc),
            **answered,
        )


def _answered(call: Call, reply: Reply) -> Mapping[str, Any]:
    artifacts, refs = _archivable(call, reply.result)
    score = reply.result.metadata.get("quality_score")
    return {
        "source": reply.source,
        "origin_id": reply.origin_id,
        "saved_usd": reply.saved_usd,
        "similarity": reply.similarity,
        "quality_score": finite(score),
        "artifacts": artifacts,
        "artifact_refs": refs,
    }


def _text(exc: BaseException) -> str:
    # Half a surrogate pair could be stored nowhere.
    return str(exc)[:_MAX_ERROR_CHARS].encode("utf-8", "replace").decode()


def finite(score: object) -> float | None:
    """Return a score that a pipeline has told as a number, None where it is none."""
    try:
        number = float(score) if isinstance(score, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _archivable(call: Call, result: GenerationResult) -> tuple[dict[str, str | bytes], dict[str, str]]:
    """Leave out what no archive could name, rather than fail an answer for it."""
    artifacts: dict[str, str | bytes] = {}
    refs: dict[str, str] = {}
    for name, content in result.artifacts.items():
        try:
            refs[name] = artifact_key(call.component_id, name)
        except BadRequest as exc:
            _logger.warning("an artifact of %s is answered but not archived: %s", call.component_id, exc)
            continue
        artifacts[name] = content
    return artifacts, refs
