"""Free text of requests, and an in-memory index of recent texts for the time when vectors are unavailable."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from forge_otel._internal.bounded import BoundedMap
from forge_otel.types import GenerationRequest, Neighbour, Point

__all__ = ["TEXT_FIELDS", "LexicalIndex", "Wording", "wording_of"]

TEXT_FIELDS: Final = frozenset({"notes", "note", "description", "brief", "prompt", "instructions"})
"""Members of ``requirements`` that `wording_of` treats as free text if they are strings."""

_MAX_ENTRIES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A request's requirements, split into free text and the rest.

    Args:
        texts: free text by name; only this is embedded and may be paraphrased.
        rest: all other requirements, JSON-like; they must be equal for a hit.
    """

    texts: Mapping[str, str]
    rest: Any = None


def wording_of(request: GenerationRequest) -> Wording | None:
    """Return the non-empty strings of `requirements` under `TEXT_FIELDS`; None if there are none.

    A service with free text in other places passes its own hook: `CacheHooks(wording=…)`.
    """
    texts = {
        name: value.strip()
        for name, value in request.requirements.items()
        if name in TEXT_FIELDS and isinstance(value, str) and value.strip()
    }
    rest = {name: value for name, value in request.requirements.items() if name not in texts}
    return Wording(texts=texts, rest=rest) if texts else None


class LexicalIndex:
    """Recent texts, ranked by the words they share; replaces the vector search while vectors are unavailable.

    Args:
        max_entries: size above which the oldest entry is evicted.
        clock: seconds since 1970.
    """

    def __init__(self, *, max_entries: int = _MAX_ENTRIES, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: BoundedMap[str, tuple[Point, Counter[str]]] = BoundedMap(max_entries)

    def add(self, point: Point, words: Sequence[str]) -> None:
        """Add an entry; the vector of `point` is not used."""
        self._entries[point.id] = (point, Counter(words))

    def search(self, scope: str, words: Sequence[str], *, limit: int) -> list[Neighbour]:
        """Return the entries of `scope` by descending cosine similarity of their word counts."""
        wanted, now = Counter(words), self._clock()
        found = [
            Neighbour(id=point.id, facts=point.facts, similarity=_cosine(wanted, known))
            for point, known in self._entries.values()
            if point.scope == scope and point.expires_at > now
        ]
        return sorted(found, key=lambda neighbour: -neighbour.similarity)[:limit]


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    shared = sum(count * other[word] for word, count in one.items())
    lengths = math.hypot(*one.values()) * math.hypot(*other.values())
    return shared / lengths if lengths else 0.0
