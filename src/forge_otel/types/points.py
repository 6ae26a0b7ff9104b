"""What a vector store keeps, and what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Neighbour", "Point"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A vector with what may be asked of it; the answer itself is kept elsewhere, under `id`.

    Args:
        id: the key of the answer.
        scope: digest of everything that must be equal.
        facts: digest of what the text says; it never holds the text.
        vector: of length 1.
        expires_at: seconds since 1970.
    """

    id: str
    scope: str
    facts: str
    vector: Sequence[float] = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A point that was found.

    Args:
        similarity: cosine, 1 for the same direction.
    """

    id: str
    facts: str
    similarity: float
