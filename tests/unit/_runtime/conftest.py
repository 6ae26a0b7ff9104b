"""A runtime without servers, database and global telemetry."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from forge_otel import Forge, Settings
from forge_otel.telemetry.providers import Telemetry


@pytest.fixture
def new_forge(tmp_path: Path) -> Callable[..., Forge]:
    """Return a function that builds a forge, with changed settings."""

    def build(**changes: Any) -> Forge:
        defaults = {"archive_url": None, "database_url": None, "outbox_dir": str(tmp_path / "outbox")}
        settings = Settings(**defaults | changes)
        tracers, meters = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
        return Forge(settings, telemetry=Telemetry(settings, tracer_provider=tracers, meter_provider=meters))

    return build
