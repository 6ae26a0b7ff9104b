"""Every generation leaves one record in the outbox, however it ends."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.telemetry.recorder import button_call

from forge_otel.context import Generation, current_generation
from forge_otel.layers.recording import RecordingLayer, quality_score_of
from forge_otel.outbox.outbox import Outbox, OutboxOptions
from forge_otel.types import Call, Cost, GenerationResult, Record, Reply


class Collector:
    """A sink that keeps the records in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Keep the records."""
        self.records += records


async def _record(folder: Path, result: GenerationResult | BaseException) -> Record:
    generation = Generation(id="g", started_at=datetime.now(UTC), started_s=0.0)

    async def pipeline(_call: Call) -> Reply:
        generation.record_cost(Cost(api="openai", amount_usd=Decimal("0.42")))
        generation.record_miss("L1", "cold")
        if isinstance(result, BaseException):
            raise result
        return Reply(result=result)

    sink = Collector()
    async with Outbox([sink], OutboxOptions(directory=folder, max_bytes=2**20, shutdown_timeout_s=5)) as outbox:
        token = current_generation.set(generation)
        (_,) = await asyncio.gather(
            RecordingLayer(outbox, pipeline_version="7")(button_call(), pipeline), return_exceptions=True
        )
        current_generation.reset(token)
        assert await outbox.drain(timeout_s=5)
    (record,) = sink.records
    return record


async def test_an_answer_is_recorded_with_its_cost(tmp_path: Path) -> None:
    """An artifact with an invalid name is returned to the caller but not archived."""
    record = await _record(tmp_path, GenerationResult(code="x", artifacts={"a.css": "y", "../b": "z"}))
    assert (record.id, record.outcome, record.cost_usd, record.pipeline_version) == ("g", "ok", Decimal("0.42"), "7")
    assert (record.misses, list(record.artifacts), record.error_type) == ({"L1": "cold"}, ["a.css"], None)


@pytest.mark.parametrize(
    ("error", "outcome"), [(ValueError("half \ud800"), "error"), (asyncio.CancelledError(), "cancelled")]
)
async def test_a_failure_is_recorded_with_its_cost(tmp_path: Path, error: BaseException, outcome: str) -> None:
    """The message has no lone surrogate, which no sink could store."""
    record = await _record(tmp_path, error)
    assert (record.outcome, record.error_type, record.cost_usd) == (outcome, type(error).__name__, Decimal("0.42"))
    assert "\ud800" not in (record.error_message or "")


@pytest.mark.parametrize(
    ("score", "expected"), [(97, 97.0), (0.5, 0.5), (float("nan"), None), (10**400, None), ("97", None), (None, None)]
)
def test_a_quality_score_is_a_finite_number(score: Any, expected: float | None) -> None:
    """Anything else a pipeline may put there is ignored."""
    assert quality_score_of(GenerationResult(code="", metadata={"quality_score": score})) == expected
