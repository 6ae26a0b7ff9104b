"""An embedder that needs no model and no network: equal texts have equal vectors on every machine, for ever.

Words (in the basic form that `forge_otel.text_matching` knows them by), pairs of neighbouring words and groups of three
letters are hashed into one vector. So texts are near that share words; it knows nothing of meaning beyond the published
list of synonyms.
"""

import hashlib
import itertools
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from forge_otel.errors import ConfigurationError
from forge_otel.text_matching import facts

__all__ = ["HashingEmbedder", "open_url"]

# Raise it whenever the same text gets another vector: stored vectors are then no longer compared.
_VERSION: Final = 1
_DIMENSIONS: Final = 512
_WORD, _PAIR, _LETTERS = 1.0, 0.4, 0.25
_STOP_WORDS: Final = frozenset(
    {"a", "an", "the", "and", "is", "are", "be", "of", "to", "must", "please", "also", ",", ""}
)
_SUFFIXES: Final = ("ing", "ed", "es", "s")
_SHORTEST_STEM: Final = 3
_CACHED_FEATURES: Final = 65_536


class HashingEmbedder:
    """Hashes words and letters into unit vectors.

    Args:
        dimensions: of the vectors; more of them tell more texts apart.
    """

    def __init__(self, *, dimensions: int = _DIMENSIONS) -> None:
        if not 16 <= dimensions <= 8192:
            raise ConfigurationError(["the dimensions of hashing:// lie between 16 and 8192"])
        self.dimensions = dimensions
        self.name = f"hashing-{_VERSION}-{dimensions}"

    async def embed(self, texts: Sequence[str], /) -> list[Sequence[float]]:
        """Return the vector of each text, of length 1; a text without words has only zeros."""
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> Sequence[float]:
        sums = [0.0] * self.dimensions
        for feature, weight in _features(text):
            place = _place(feature)
            sums[(place >> 1) % self.dimensions] += weight if place & 1 else -weight
        length = math.sqrt(math.fsum(value * value for value in sums)) or 1.0
        return array("f", [value / length for value in sums])


def _features(text: str) -> Iterator[tuple[str, float]]:
    # In the form that wordings have in common, so that what the value gate lets through is near.
    said = itertools.chain.from_iterable(facts(text))
    words = [_stem(word) for word in said if word not in _STOP_WORDS]
    pairs = itertools.pairwise(words)
    # What is said again weighs a little more, not twice as much.
    for word, times in Counter(words).items():
        weight = math.sqrt(times)
        yield f"w {word}", _WORD * weight
        letters = f"^{word}$"
        for start in range(len(letters) - 2):
            yield f"l {letters[start : start + 3]}", _LETTERS * weight
    for pair, times in Counter(pairs).items():
        yield f"p {pair[0]} {pair[1]}", _PAIR * math.sqrt(times)


def _stem(word: str) -> str:
    lower = word.lower()
    for suffix in _SUFFIXES:
        if lower.endswith(suffix) and len(lower) - len(suffix) >= _SHORTEST_STEM:
            return lower.removesuffix(suffix)
    return lower


@lru_cache(maxsize=_CACHED_FEATURES)
def _place(feature: str) -> int:
    return int.from_bytes(hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def open_url(url: str, **_: Any) -> HashingEmbedder:
    """Open `hashing://` or `hashing://?dimensions=1024`."""
    wanted = parse_qs(urlsplit(url).query).get("dimensions", [str(_DIMENSIONS)])[-1]
    return HashingEmbedder(dimensions=int(wanted))
