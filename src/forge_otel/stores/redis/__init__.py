"""The store in one Redis or Valkey server, behind Sentinels or in a Cluster, over `redis-py`.

The in-process copy in front of it is in `forge_otel.stores.near`, the leases on its entries in `forge_otel.leases`.
"""
