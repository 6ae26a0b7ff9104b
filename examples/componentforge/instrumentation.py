"""Activate the OpenTelemetry instrumentation of the ``openai`` client, which makes a span of every model call."""

import logging
from importlib.metadata import entry_points
from typing import Any

__all__ = ["find_instrumentor", "instrument_openai"]

_logger = logging.getLogger(__name__)


def find_instrumentor() -> Any | None:
    """Return the installed instrumentation of the ``openai`` client, None if none can be imported."""
    # By entry point, as `opentelemetry-instrument` does: OpenTelemetry moved the instrumentation from one package
    # (…-openai-v2) to another (…-genai-openai), and both register the same name.
    for entry in entry_points(group="opentelemetry_instrumentor", name="openai"):
        try:
            return entry.load()()
        except ImportError as exc:
            # opentelemetry-instrumentation-openai-v2 2.4b0 fails to import with opentelemetry-util-genai 1.3b0.
            _logger.warning("the instrumentation %s cannot be imported: %s", entry.value, exc)
    return None


def instrument_openai() -> bool:
    """Instrument the client once per process and return whether model calls are traced."""
    instrumentor = find_instrumentor()
    if instrumentor is None:
        _logger.warning("model calls are not traced: pip install opentelemetry-instrumentation-genai-openai")
        return False
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()
    return True
