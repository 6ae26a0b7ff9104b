"""Helpers without a domain: tasks, locks, frames, back-off, ids, parsing of environment variables.

They import only `forge_otel.errors`. A helper that knows what a request, a record or a span is belongs elsewhere.
"""
