"""The layer that records: one record per generation, written to the outbox before the caller gets the answer."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from forge_otel.context import Generation, current_generation
from forge_otel.errors import BadRequest, ServiceUnavailable
from forge_otel.keys import artifact_key
from forge_otel.layers.single_flight.run import RunOutcome
from forge_otel.names.deliveries import MEMORY_LABEL
from forge_otel.types import Call, CallNext, GenerationResult, Record, Reply, outcome_of

if TYPE_CHECKING:
    from forge_otel.outbox.outbox import Outbox

__all__ = ["RecordingLayer", "quality_score_of"]

_logger = logging.getLogger(__name__)

_MAX_ERROR_CHARS: Final = 500


class RecordingLayer:
    """Builds the record of every generation and offers it to the outbox.

    Args:
        outbox: receives the records.
        pipeline_version: written to each record.
    """

    def __init__(self, outbox: "Outbox", *, pipeline_version: str) -> None:
        self._outbox = outbox
        self._pipeline_version = pipeline_version

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call` and record it, also when it fails or is cancelled."""
        generation = current_generation.get()
        if generation is None:
            return await call_next(call)
        self._outbox.check_accepting()
        # The record must say which sinks were unavailable when the generation began.
        for label in self._outbox.degraded():
            generation.record_degraded(label)
        try:
            reply = await call_next(call)
        except asyncio.CancelledError as exc:
            # A cancelled task must end now; the record reaches the disk with the next group commit.
            self._outbox.offer_nowait(self._record(call, generation, exc=exc))
            raise
        except Exception as exc:
            # The caller gets the generation's own error, also if the journal would refuse an answer.
            with suppress(ServiceUnavailable):
                await self._offer(generation, self._record(call, generation, exc=exc))
            raise
        except BaseException as exc:
            # KeyboardInterrupt and SystemExit must not wait for the disk either.
            self._outbox.offer_nowait(self._record(call, generation, exc=exc))
            raise
        await self._offer(generation, self._record(call, generation, reply=reply))
        return reply

    async def record_orphaned(self, call: Call, generation: Generation, outcome: RunOutcome) -> None:
        """Record a run whose first caller left before the end, with its costs."""
        with suppress(ServiceUnavailable):
            await self._outbox.offer(self._record(call, generation, reply=outcome.reply, exc=outcome.error))

    async def _offer(self, generation: Generation, record: Record) -> None:
        if not await self._outbox.offer(record):
            generation.record_degraded(MEMORY_LABEL)

    def _record(
        self, call: Call, generation: Generation, *, reply: Reply | None = None, exc: BaseException | None = None
    ) -> Record:
        request = call.request
        answer = {} if reply is None else _answer_fields(call, reply)
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
            error_message=None if exc is None else _message_of(exc),
            **answer,
        )


def _answer_fields(call: Call, reply: Reply) -> Mapping[str, Any]:
    artifacts, refs = _archivable(call, reply.result)
    return {
        "source": reply.source,
        "origin_id": reply.origin_id,
        "saved_usd": reply.saved_usd,
        "similarity": reply.similarity,
        "quality_score": quality_score_of(reply.result),
        "artifacts": artifacts,
        "artifact_refs": refs,
    }


def _message_of(exc: BaseException) -> str:
    # Neither JSON nor a database can store a lone surrogate.
    return str(exc)[:_MAX_ERROR_CHARS].encode("utf-8", "replace").decode()


def quality_score_of(result: GenerationResult) -> float | None:
    """Return `metadata["quality_score"]` as a finite float; None if it is missing or not a finite number."""
    score = result.metadata.get("quality_score")
    # The metadata comes from the pipeline: an integer may be too large for a float.
    try:
        number = float(score) if isinstance(score, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _archivable(call: Call, result: GenerationResult) -> tuple[dict[str, str | bytes], dict[str, str]]:
    """Return the artifacts whose names an archive accepts, and their paths."""
    artifacts: dict[str, str | bytes] = {}
    refs: dict[str, str] = {}
    for name, content in result.artifacts.items():
        try:
            refs[name] = artifact_key(call.component_id, name)
        except BadRequest as exc:
            _logger.warning("artifact of %s is returned to the caller but not archived: %s", call.component_id, exc)
            continue
        artifacts[name] = content
    return artifacts, refs
