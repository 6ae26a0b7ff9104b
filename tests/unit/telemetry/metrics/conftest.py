"""Fixtures of the tests of metrics."""

import pytest

from forge_otel.telemetry.metrics.prometheus import PrometheusPage


@pytest.fixture
def page() -> PrometheusPage:
    """An empty metrics page."""
    return PrometheusPage()
