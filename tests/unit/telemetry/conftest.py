"""Fixtures of the tests of telemetry."""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic

import pytest
from tests.unit.telemetry.recorder import Recorder

from forge_otel.context import Generation, current_generation
from forge_otel.settings import Settings


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A recorder with default settings."""
    made = Recorder()
    yield made
    made.close()


@pytest.fixture
def capturing() -> Iterator[Recorder]:
    """A recorder that captures contents."""
    made = Recorder(Settings(capture_content=True))
    yield made
    made.close()


@pytest.fixture
def generation() -> Iterator[Generation]:
    """A running generation."""
    running = Generation(id="g1", started_at=datetime.now(UTC), started_s=monotonic())
    token = current_generation.set(running)
    yield running
    current_generation.reset(token)
