"""Export of spans over OTLP/HTTP: queue, disk spool, retries and the accounting of every span.

What is specific to LangSmith is in `telemetry.langsmith`; the metrics pipeline is in `telemetry.metrics`.
"""
