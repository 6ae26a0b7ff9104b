"""Spans, metrics, the reading of model calls, the metrics page and the traces that the process remembers.

`providers` owns the lifecycle, `spans` is what users decorate with, `instruments` is what the other rooms record
with. What looks at spans as they pass (`identity`, `genai`, `recent`) is a span processor behind the one
`switchboard` of its tracer provider.
"""
