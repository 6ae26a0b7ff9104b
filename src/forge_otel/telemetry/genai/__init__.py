"""Token usage and cost of model calls, read from the spans of any instrumentation or reported by the application.

The spans of our own decorators are in `telemetry.spans`, prices in `forge_otel.pricing`.
"""
