"""The HTTP layer: the ASGI middleware, its own pages and the dashboard.

`middleware` is the entry point; `request` follows the application's requests, `pages` serves the middleware's own
routes. Telemetry, caches and storage are below, in their own packages.
"""
