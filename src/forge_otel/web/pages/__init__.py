"""Pages that the middleware serves itself: metrics, health, the dashboard with its API, and progress streams.

The middleware composes them in `web.middleware`; requests of the application are followed in `web.request`.
"""
