"""L1, the exact cache: answers by request key, invalidated by tag versions.

Excludes the stores that hold the entries, which are in `forge_otel.stores`.
"""
