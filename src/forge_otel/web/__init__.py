"""The HTTP entrance: the ASGI middleware, its own routes and the dashboard.

`middleware` is the door. `lifespan` opens and closes the forge, `http` and `websocket` follow one connection,
`server_span` decides who owns its span, `templates` finds its route. `router` serves our own routes, each of
which has a module: `metrics`, `health`, `admin`, `dashboard`.
"""
