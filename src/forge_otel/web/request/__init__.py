"""One request from its first byte to its last: server span, duration sample, identity, route and response headers.

Pages that the middleware serves itself are in `web.pages`.
"""
