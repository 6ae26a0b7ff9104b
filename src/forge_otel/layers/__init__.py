"""Layers around a generation: tracing, metrics, recording, caches, budget and time limit.

Excludes guards around calls to outside services, which are in `forge_otel.resilience`.
"""
