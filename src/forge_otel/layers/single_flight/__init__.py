"""L1's misses: one pipeline run per key, shared by all callers of this process and, through leases, of others.

Excludes the lease backends, which are in `forge_otel.leases`.
"""
