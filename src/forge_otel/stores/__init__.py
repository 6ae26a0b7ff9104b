"""Cache stores: one module, or folder with a `store` module, for each URL scheme of `FORGE_CACHE_URL`.

To add one, write `stores/<scheme>.py` with `open_url(url, *, max_bytes)` that returns a `forge_otel.types.Store`; it is
found by its name, and `forge_otel.testing.contracts.store_contract` tests it. The format and the validity of cached
answers are the concern of `forge_otel.layers.exact`.
"""
