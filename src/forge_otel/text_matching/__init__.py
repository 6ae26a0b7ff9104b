"""Compares free text by the facts it states: paraphrases are equal, other numbers, names or negations are not.

Excludes embeddings and the search for near texts, which are in `forge_otel.embedders` and `forge_otel.layers.semantic`.
"""

from forge_otel.text_matching.facts import facts
from forge_otel.text_matching.tokens import Token, tokenize

__all__ = ["Token", "facts", "tokenize"]
