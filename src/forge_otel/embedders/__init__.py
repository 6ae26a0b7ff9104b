"""Embedders of the semantic cache: one module for each URL scheme of `FORGE_EMBEDDER_URL`.

A new embedder is `embedders/<scheme>.py` with `open_url(url)` that returns a `forge_otel.types.Embedder`. Storing and
searching vectors is the concern of `forge_otel.vector_stores`.
"""
