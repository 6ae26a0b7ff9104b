"""Which part of a request is free text, and the wordings that were asked lately.

What is free text may be worded in another way and still ask for the same; everything else in a request must be equal.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from forge_otel.types import GenerationRequest, Neighbour, Point

__all__ = ["TEXT_FIELDS", "LexicalIndex", "Wording", "wording_of"]

TEXT_FIELDS: Final = frozenset({"notes", "note", "description", "brief", "prompt", "instructions"})
"""The members of ``requirements`` that `wording_of` takes for free text, where they are strings."""

_MAX_RECENT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A request's requirements, taken apart.

    Args:
        texts: name to text; only these are embedded, and never any JSON.
        rest: all other requirements, JSON-like: they must be equal.
    """

    texts: Mapping[str, str]
    rest: Any = None


def wording_of(request: GenerationRequest) -> Wording | None:
    """Return the strings that stand in `requirements` under one of `TEXT_FIELDS`; None where there is none.

    A service whose free text stands elsewhere gives a hook of its own: `CacheHooks(wording=…)`.
    """
    texts = {
        name: value.strip()
        for name, value in request.requirements.items()
        if name in TEXT_FIELDS and isinstance(value, str) and value.strip()
    }
    rest = {name: value for name, value in request.requirements.items() if name not in texts}
    return Wording(texts=texts, rest=rest) if texts else None


class LexicalIndex:
    """The wordings of the last answers, compared word by word: what is left of L2 while the vectors are away.

    Args:
        max_entries: with more, the oldest is forgotten.
        clock: seconds since 1970.
    """

    def __init__(self, *, max_entries: int = _MAX_RECENT, clock: Callable[[], float] = time.time) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[str, tuple[Point, Counter[str]]] = OrderedDict()

    def add(self, point: Point, words: Sequence[str]) -> None:
        """Remember an answer; the vector of `point` is not looked at."""
        self._entries[point.id] = (point, Counter(words))
        self._entries.move_to_end(point.id)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def search(self, scope: str, words: Sequence[str], *, limit: int) -> list[Neighbour]:
        """Return the entries of `scope` that share most words, best first, with the cosine of their counts."""
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
