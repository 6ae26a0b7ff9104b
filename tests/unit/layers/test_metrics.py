"""Every generation is measured once, by the layer that answered and by outcome."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from tests.unit.telemetry.recorder import Recorder, button_call

from forge_otel.context import Generation, current_generation
from forge_otel.errors import BudgetExceeded
from forge_otel.layers.metrics import MetricsLayer, record_lookup
from forge_otel.names import Metric
from forge_otel.types import Call, GenerationResult, Reply


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A recorder with default settings."""
    opened = Recorder()
    yield opened
    opened.close()


async def test_a_hit_is_measured_with_its_saving(recorder: Recorder) -> None:
    """It counts as a hit of its layer, and no generation stays active."""
    ended: list[BaseException | None] = []

    async def hit(_call: Call) -> Reply:
        return Reply(result=GenerationResult(code="x"), source="L1", cost_usd=Decimal("0.42"))

    await MetricsLayer(recorder.telemetry.instruments, on_end=ended.append)(button_call(), hit)
    assert sorted(recorder.values(Metric.SAVED).values()) == [0.42]
    assert {"hit", "L1"} <= set(next(iter(recorder.values(Metric.CACHE_LOOKUPS))))
    assert list(recorder.values(Metric.GENERATION_ACTIVE).values()) == [0]
    assert ended == [None]


async def test_a_failure_is_measured_and_reported(recorder: Recorder) -> None:
    """The outcome is in the duration, and `on_end` receives the error."""
    ended: list[BaseException | None] = []
    error = BudgetExceeded("no money", scope="all", retry_after_s=1.0)

    async def fail(_call: Call) -> Reply:
        raise error

    with pytest.raises(BudgetExceeded):
        await MetricsLayer(recorder.telemetry.instruments, on_end=ended.append)(button_call(), fail)
    (labels,) = recorder.points(Metric.GENERATION_DURATION)
    assert "none" in labels
    assert "ok" not in labels
    assert ended == [error]


@pytest.mark.parametrize(
    ("reason", "result"), [(None, "hit"), ("cold", "miss"), ("epoch", "miss"), ("backend_down", "error")]
)
def test_a_lookup_is_counted_by_its_result(recorder: Recorder, reason: str | None, result: str) -> None:
    """Only an unavailable store counts as an error."""
    generation = Generation(id="g", started_at=datetime.now(UTC), started_s=0.0)
    token = current_generation.set(generation)
    record_lookup(recorder.telemetry.instruments, "L2", 0.001, reason=reason)
    current_generation.reset(token)
    recorder.telemetry.instruments.flush()
    (labels,) = recorder.values(Metric.CACHE_REQUESTS)
    assert {"L2", result, reason} <= set(labels)
    assert generation.misses == ({} if reason is None else {"L2": reason})
