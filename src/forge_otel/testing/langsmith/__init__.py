"""A stand-in for LangSmith: its HTTP API, and the runs that LangSmith makes of spans and of its own client's requests.

It is independent of the exporter in `telemetry.langsmith`, which is tested against it.
"""
