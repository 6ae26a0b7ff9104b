"""Feature hashing: an embedder without a model or a network, whose vectors are the same on every machine.

Words (in the normal form of `forge_otel.text_matching`), pairs of neighbouring words and letter trigrams are hashed
into one vector. Texts that share words are near each other; beyond the published synonyms it knows no meaning.
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

# Increase it whenever a text gets another vector, so that stored vectors are no longer compared.
_VERSION: Final = 2
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
        dimensions: of the vectors; more dimensions distinguish more texts.
    """

    def __init__(self, *, dimensions: int = _DIMENSIONS) -> None:
        if not 16 <= dimensions <= 8192:
            raise ConfigurationError(["the dimensions of hashing:// must be between 16 and 8192"])
        self.dimensions = dimensions
        self.name = f"hashing-{_VERSION}-{dimensions}"

    async def embed(self, texts: Sequence[str], /) -> list[Sequence[float]]:
        """Return the unit vector of each text; that of a text without words is zero."""
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> Sequence[float]:
        sums = [0.0] * self.dimensions
        for feature, weight in _features(text):
            value = _hash(feature)
            # Signed by one bit of the hash, so that collisions cancel out on average (Weinberger et al., "Feature
            # Hashing for Large Scale Multitask Learning", ICML 2009).
            sums[(value >> 1) % self.dimensions] += weight if value & 1 else -weight
        length = math.sqrt(math.fsum(value * value for value in sums)) or 1.0
        return array("f", [value / length for value in sums])


def _features(text: str) -> Iterator[tuple[str, float]]:
    # Normalised as for the comparison of values, so that texts which pass that comparison are near each other.
    normalized = itertools.chain.from_iterable(facts(text))
    words = [_stem(word) for word in normalized if word not in _STOP_WORDS]
    pairs = itertools.pairwise(words)
    # The square root dampens repetitions.
    for word, count in Counter(words).items():
        weight = math.sqrt(count)
        yield f"w {word}", _WORD * weight
        letters = f"^{word}$"
        for start in range(len(letters) - 2):
            yield f"l {letters[start : start + 3]}", _LETTERS * weight
    for pair, count in Counter(pairs).items():
        yield f"p {pair[0]} {pair[1]}", _PAIR * math.sqrt(count)


def _stem(word: str) -> str:
    lower = word.lower()
    for suffix in _SUFFIXES:
        if lower.endswith(suffix) and len(lower) - len(suffix) >= _SHORTEST_STEM:
            return lower.removesuffix(suffix)
    return lower


@lru_cache(maxsize=_CACHED_FEATURES)
def _hash(feature: str) -> int:
    # Not `hash`, whose values differ from process to process. A lone surrogate cannot be encoded.
    return int.from_bytes(hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def open_url(url: str, **_: Any) -> HashingEmbedder:
    """Open `hashing://` or `hashing://?dimensions=1024`."""
    dimensions = parse_qs(urlsplit(url).query).get("dimensions", [str(_DIMENSIONS)])[-1]
    return HashingEmbedder(dimensions=int(dimensions))
