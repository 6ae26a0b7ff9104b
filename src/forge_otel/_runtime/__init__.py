"""Assembly of a `Forge`: components, options, default layers, observers, health and the operators' interface.

What each part does is in its own package; the lifecycle of the whole is in `forge_otel.forge`.
"""
