"""Lookups are counted by result, and a miss leaves its reason on the running generation."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.unit.telemetry.recorder import Recorder

from forge_otel.context import Generation, current_generation
from forge_otel.layers.cache_metrics import record_lookup
from forge_otel.names import Metric


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A recorder with default settings."""
    opened = Recorder()
    yield opened
    opened.close()


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
