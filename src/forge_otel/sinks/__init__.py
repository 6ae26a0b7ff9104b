"""Sinks: where finished records are stored. Archives of artifacts are in `files/` and `s3/`, the database in `sql`.

A sink stores the batch that it receives or raises; retries, ordering and dead letters are in `forge_otel.outbox`.
"""
