"""Writing of record batches: mapping to rows, aggregate rows, and one writer for each database.

Reading is in `forge_otel.database.analytics`.
"""
