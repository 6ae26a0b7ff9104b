"""Decides whether two texts ask for the same thing, by a canonical form of each.

It knows words and their positions, not requests or caches: the semantic cache compares the forms.
"""

from forge_otel.text_matching.facts import facts

__all__ = ["facts"]
