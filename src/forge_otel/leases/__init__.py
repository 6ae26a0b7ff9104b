"""Leases with fencing numbers, by which processes elect the one that generates: in Redis, or in a file for one host.

How an election uses them, and what happens without a backend, is in `forge_otel.layers.single_flight`.
"""
