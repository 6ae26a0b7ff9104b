"""Detection of FastAPI's own telemetry, and a marker that keeps it switched off if it was off before.

FastAPI traces every request as soon as global providers exist. Opening a forge sets global providers if there are none,
and would switch on telemetry that the application never requested: three more spans per request, twice the cost, and
histogram buckets that end at 10 s. If FastAPI's telemetry was on before, its server span is adopted (`server_span`).

FastAPI skips requests if contrib's OpenTelemetryMiddleware is in the middleware stack, so the marker is an instance of
it that is never called. Without contrib's package FastAPI traces, and its span is adopted.
"""

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import metrics, trace
from starlette.types import ASGIApp, Scope

__all__ = ["SCOPE_KEY", "is_off", "records_duration", "with_marker"]

SCOPE_KEY: Final = "fastapi.telemetry"
"""Scope entry that FastAPI sets while it traces a request; if it is set already, FastAPI does not trace."""

_PROVIDERS: Final = ("tracer_provider", "meter_provider", "logger_provider")


def is_off(app: object) -> bool:
    """Return whether `app` is a FastAPI application whose telemetry is off for lack of a provider."""
    config = _config(app)
    if not config or any(config.get(name) is not None for name in _PROVIDERS):
        return False
    return not _is_set(trace.get_tracer_provider()) and not _is_set(metrics.get_meter_provider())


def records_duration(scope: Scope) -> bool:
    """Return whether FastAPI records `http.server.request.duration` for this request; never for a WebSocket."""
    config = _config(scope.get("app"))
    provider = config.get("meter_provider") or metrics.get_meter_provider()
    return scope["type"] == "http" and config.get("metrics", True) and _is_set(provider)


def with_marker(app: ASGIApp) -> ASGIApp:
    """Return `app` wrapped in the marker, or `app` itself without contrib's package."""
    try:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    except ImportError:
        return app
    marker: ASGIApp = OpenTelemetryMiddleware(app, tracer=trace.NoOpTracer(), meter=metrics.NoOpMeter("forge_otel"))
    return marker


def _config(app: object) -> Mapping[str, Any]:
    """Return the telemetry configuration of a FastAPI application, empty for other applications."""
    # FastAPI has no public attribute for it.
    config: Mapping[str, Any] = getattr(app, "_telemetry", {})
    return config


def _is_set(provider: object) -> bool:
    """Return whether a provider is a real one."""
    if isinstance(provider, metrics.NoOpMeterProvider | trace.NoOpTracerProvider):
        return False
    # The OpenTelemetry API has no public way to recognise its proxy providers.
    return not type(provider).__name__.lstrip("_").startswith("Proxy")
