"""Tracing and metrics: providers and exporters, spans, model calls, sampling, the metrics page and recent traces.

`providers.Telemetry` owns the lifecycle. Request spans are in `web.request`, the span and the metrics of a generation
in `layers`.
"""
