"""The near cache: an in-process copy of what was read from Redis, kept coherent by client tracking (RESP3).

Deciding whether a copy is a valid answer is up to `forge_otel.layers.exact`.
"""
