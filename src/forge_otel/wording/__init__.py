"""Free text as what it says: which wordings mean the same, and which only look alike."""

from forge_otel.wording.facts import facts
from forge_otel.wording.tokens import Token, read

__all__ = ["Token", "facts", "read"]
