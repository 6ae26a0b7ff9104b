"""Export of spans over OTLP/HTTP: queue, disk spool, retries and the accounting of every span.

The conversion of spans to LangSmith runs is in `telemetry.langsmith`, the export of metrics in `telemetry.metrics`.
"""
