"""Free text as what it says: which wordings mean the same, and which only look alike."""

from forge_otel.text_matching.facts import facts
from forge_otel.text_matching.tokens import Token, read

__all__ = ["Token", "facts", "read"]
