"""The archive in an S3 bucket: the sink, its URL, requests, verified uploads, and the configuration of the bucket.

The layout and the manifest are those of every archive and are in `forge_otel.sinks.archive`.
"""
