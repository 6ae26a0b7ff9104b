"""Assembly of a `Forge`: components, options, default layers, observers, health and the operators' interface.

The parts themselves are in their own packages, the lifecycle of the whole is in `forge_otel.forge`.
"""
