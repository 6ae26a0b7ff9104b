"""Vector stores of the semantic cache: one module for each URL scheme of `FORGE_VECTOR_URL`.

A new store is `vector_stores/<scheme>.py` with `open_url(url)`. Whether a neighbour is a valid answer is decided in
`forge_otel.layers.semantic`.
"""
