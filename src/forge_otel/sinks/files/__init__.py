"""The archive in a local folder: the sink, symlink-safe file access, and retention.

The layout and the manifest are those of every archive and are in `forge_otel.sinks.archive`.
"""
