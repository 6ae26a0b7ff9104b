"""Recording of metrics, and the page in Prometheus format.

The metrics are declared in `forge_otel.names`; the `/metrics` route is in `web.pages`.
"""
