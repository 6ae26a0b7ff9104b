"""Turns on the OpenTelemetry instrumentation of the ``openai`` client, so that every call to the model is a span."""

import logging
from importlib.metadata import entry_points
from typing import Any

__all__ = ["find_instrumentor", "instrument_openai"]

_logger = logging.getLogger(__name__)


def find_instrumentor() -> Any | None:
    """Return the installed instrumentation of the ``openai`` client, None where none can be imported.

    It is found as ``opentelemetry-instrument`` finds it, by its entry point. So it does not matter here that
    OpenTelemetry moved it to another package (``opentelemetry-instrumentation-genai-openai``).
    """
    for entry in entry_points(group="opentelemetry_instrumentor", name="openai"):
        try:
            return entry.load()()
        except ImportError as exc:
            # The older package (…-openai-v2 2.4b0) stopped loading with opentelemetry-util-genai 1.3b0.
            _logger.warning("the instrumentation %s cannot be imported: %s", entry.value, exc)
    return None


def instrument_openai() -> bool:
    """Instrument the client, once a process; tells whether its calls are spans now."""
    instrumentor = find_instrumentor()
    if instrumentor is None:
        _logger.warning("calls to the model have no spans: pip install opentelemetry-instrumentation-genai-openai")
        return False
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()
    return True
