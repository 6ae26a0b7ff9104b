"""Pattern Retriever: selects the pattern that fits a design best, by BM25 over a local library."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from componentforge.schemas import Blueprint, ComponentType, Part, Pattern
from forge_otel import agent, tool
from forge_otel.errors import NotFound

__all__ = ["Match", "deciding_words", "library", "pattern_by_id", "rank_patterns", "retrieve_pattern"]

# k1 and b of BM25, with the usual values (Robertson and Zaragoza, 2009).
_SATURATION = 1.2
_LENGTH_WEIGHT = 0.75
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", re.ASCII)
_MAX_QUERY_CHARS = 20_000
_MAX_REQUESTED_CHARS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A pattern with its BM25 score; the score is None if the caller chose the pattern."""

    pattern: Pattern
    score: float | None


@cache
def library() -> tuple[Pattern, ...]:
    """Return all patterns, read from ``patterns/*.json`` once."""
    adapter = TypeAdapter(list[Pattern])
    files = sorted((Path(__file__).parents[1] / "patterns").glob("*.json"))
    return tuple(pattern for file in files for pattern in adapter.validate_json(file.read_bytes()))


@agent("pattern_retriever")
async def retrieve_pattern(
    component_type: ComponentType,
    blueprint: Blueprint,
    requested: Mapping[str, Any],
    *,
    pattern_id: str | None = None,
) -> Match:
    """Return the best pattern for a component type, or the pattern `pattern_id`.

    Args:
        component_type: only patterns of this type are ranked.
        blueprint: the design; its words form the query together with `requested`.
        requested: the caller's requirements.
        pattern_id: the caller's choice.

    Raises:
        NotFound: no pattern has this id.
    """
    if pattern_id is None:
        # Truncated separately: a long design must not push the requirements out of the query.
        design = " ".join([blueprint.name, *_words_of(blueprint)])[: _MAX_QUERY_CHARS - _MAX_REQUESTED_CHARS]
        query = f"{design} {str(dict(requested))[: _MAX_REQUESTED_CHARS - 1]}"
        return rank_patterns(query, component_type=component_type)[0]
    return Match(pattern=pattern_by_id(pattern_id), score=None)


def deciding_words(component_type: str, requested: Mapping[str, Any]) -> list[str]:
    """Return the words of the requirements that occur in any pattern of the type; only these affect the ranking."""
    known: set[str] = set()
    for pattern in library():
        if pattern.component_type == component_type:
            known |= set(_document(pattern))
    return sorted(known.intersection(_split(str(dict(requested))[: _MAX_REQUESTED_CHARS - 1])))


def pattern_by_id(pattern_id: str) -> Pattern:
    """Return the pattern with this id.

    Raises:
        NotFound: no pattern has this id.
    """
    for pattern in library():
        if pattern.id == pattern_id:
            return pattern
    raise NotFound(f"there is no pattern {pattern_id!r}")


@tool("bm25")
def rank_patterns(query: str, *, component_type: ComponentType) -> Sequence[Match]:
    """Rank the patterns of a component type, best first; ties are ordered by id."""
    patterns = [pattern for pattern in library() if pattern.component_type == component_type]
    documents = [_document(pattern) for pattern in patterns]
    weights = {word: _rarity(word, documents) for word in sorted(set(_split(query[:_MAX_QUERY_CHARS])))}
    average = sum(document.total() for document in documents) / len(documents)
    scores = [round(_score(document, weights, average_words=average), 6) for document in documents]
    ranked = sorted(zip(patterns, scores, strict=True), key=lambda pair: (-pair[1], pair[0].id))
    return [Match(pattern=pattern, score=score) for pattern, score in ranked]


def _score(document: Counter[str], weights: Mapping[str, float], *, average_words: float) -> float:
    length = 1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * document.total() / average_words
    return sum(
        weight * document[word] * (_SATURATION + 1) / (document[word] + _SATURATION * length)
        for word, weight in weights.items()
        if document[word]
    )


def _rarity(word: str, documents: Sequence[Counter[str]]) -> float:
    holding = sum(1 for document in documents if document[word])
    return math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))


def _document(pattern: Pattern) -> Counter[str]:
    """Return the word counts of a pattern."""
    # Tags are search terms, so they have double weight.
    text = " ".join([pattern.name, pattern.description, *pattern.props, *pattern.tags, *pattern.tags])
    return Counter(_split(text))


def _split(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _words_of(blueprint: Blueprint) -> list[str]:
    options = [option for axis, options in blueprint.axes.items() for option in (axis, *options)]
    return options + [word for part in _parts(blueprint.variants[0].root) for word in (part.name, part.text or "")]


def _parts(part: Part) -> list[Part]:
    return [part, *(below for child in part.children for below in _parts(child))]
