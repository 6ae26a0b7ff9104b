"""Crash-safe journal segments on SQLite, used by the outbox and by the spool of spans.

Encoding of entries, delivery and accounting are the callers' concern.
"""
