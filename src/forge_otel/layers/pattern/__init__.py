"""L3, the pattern cache: reusable parts of answers by pattern and design tokens, and their precomputation.

Excludes the hooks' implementations, which a service passes as `PatternHooks`.
"""
