"""L1 misses: one pipeline run per key, shared by all callers of this process and, through leases, of other processes.

Excludes the lease backends, which are in `forge_otel.leases`.
"""
