"""Spans of decorated functions and blocks: start, capture of inputs and outputs, exceptions, identity, end.

Tracer providers are in `telemetry.providers`; request spans are in `web.request`, generation spans in `layers.tracing`.
"""
