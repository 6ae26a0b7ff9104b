"""The outbox: records are journaled on local disk and delivered to the sinks in the background.

The sinks themselves are in `forge_otel.sinks`, the segments of the journal in `forge_otel._journal`.
"""
