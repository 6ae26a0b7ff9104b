"""FastAPI's own telemetry: whether it is on, what it records, and keeping it as silent as it was without us.

FastAPI traces every request by itself as soon as a global provider exists. Opening a forge sets the global providers
where nobody has set any, and would so switch on what the application never asked for: three more spans a request, twice
the cost, and buckets that end at 10 s. Where it was off before, it stays off; where the application had it on, its
server span is adopted (`server_span`).

It stays off by its own rule: it leaves requests alone where contrib's middleware is in the stack. One stands there that
is never called. Without that package FastAPI traces, and is adopted.
"""

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import metrics, trace
from starlette.types import ASGIApp, Scope

__all__ = ["KEY", "is_off", "meters", "stand_in"]

KEY: Final = "fastapi.telemetry"
"""The scope entry that FastAPI makes while it follows a request, and looks for before it does."""

_PROVIDERS: Final = ("tracer_provider", "meter_provider", "logger_provider")


def is_off(app: object) -> bool:
    """Tell whether `app` is a FastAPI whose telemetry waits for a provider that nobody has set."""
    config = _config(app)
    if not config or any(config.get(name) is not None for name in _PROVIDERS):
        return False
    return not _is_set(trace.get_tracer_provider()) and not _is_set(metrics.get_meter_provider())


def meters(scope: Scope) -> bool:
    """Tell whether FastAPI records `http.server.request.duration` for this request; it does for no WebSocket."""
    config = _config(scope.get("app"))
    provider = config.get("meter_provider") or metrics.get_meter_provider()
    return scope["type"] == "http" and config.get("metrics", True) and _is_set(provider)


def stand_in(app: ASGIApp) -> ASGIApp:
    """Return what FastAPI must find in the stack to stay silent, `app` behind it; just `app` without the package."""
    try:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    except ImportError:
        return app
    marker: ASGIApp = OpenTelemetryMiddleware(app, tracer=trace.NoOpTracer(), meter=metrics.NoOpMeter("forge_otel"))
    return marker


def _config(app: object) -> Mapping[str, Any]:
    """Return the configuration, which FastAPI shows nowhere public; empty where there is none."""
    config: Mapping[str, Any] = getattr(app, "_telemetry", {})
    return config


def _is_set(provider: object) -> bool:
    """Tell whether a provider is real; the API has no public question for one that is not set yet."""
    if isinstance(provider, metrics.NoOpMeterProvider | trace.NoOpTracerProvider):
        return False
    return not type(provider).__name__.lstrip("_").startswith("Proxy")
