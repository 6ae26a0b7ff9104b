"""LangSmith: export of spans as runs (`exporter`), and links to runs and scores through its client (`feedback`).

The queue, the disk spool and the retries of the export are in `telemetry.export`.
"""
