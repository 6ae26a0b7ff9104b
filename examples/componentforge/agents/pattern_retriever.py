"""Pattern Retriever: finds the proven pattern that fits a design best, by BM25 over a small local library."""

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

# The usual constants of BM25 (Robertson and Zaragoza, 2009): saturation of repeated words, weight of the length.
_SATURATION = 1.2
_LENGTH_WEIGHT = 0.75
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", re.ASCII)
_MAX_QUERY_CHARS = 20_000
_MAX_REQUESTED_CHARS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A pattern with its BM25 score; None where the caller chose it."""

    pattern: Pattern
    score: float | None


@cache
def library() -> tuple[Pattern, ...]:
    """Return all patterns."""
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
    """Return the best pattern for a component type, or the one that the caller chose.

    Args:
        requested: the caller's requirements; their words count like the design's.
        pattern_id: the caller's choice.

    Raises:
        NotFound: there is no pattern of that id.
    """
    if pattern_id is None:
        # Each is cut by itself, so that what is found depends on no more of the other than its words.
        design = " ".join([blueprint.name, *_words_of(blueprint)])[: _MAX_QUERY_CHARS - _MAX_REQUESTED_CHARS]
        query = f"{design} {str(dict(requested))[: _MAX_REQUESTED_CHARS - 1]}"
        return rank_patterns(query, component_type=component_type)[0]
    return Match(pattern=pattern_by_id(pattern_id), score=None)


def deciding_words(component_type: str, requested: Mapping[str, Any]) -> list[str]:
    """Return the words of a caller's requirements that decide which pattern is found for a design of a type."""
    known: set[str] = set()
    for pattern in library():
        if pattern.component_type == component_type:
            known |= set(_document(pattern))
    return sorted(known.intersection(_split(str(dict(requested))[: _MAX_REQUESTED_CHARS - 1])))


def pattern_by_id(pattern_id: str) -> Pattern:
    """Return the pattern of this id.

    Raises:
        NotFound: there is none.
    """
    for pattern in library():
        if pattern.id == pattern_id:
            return pattern
    raise NotFound(f"there is no pattern {pattern_id!r}")


@tool("bm25")
def rank_patterns(query: str, *, component_type: ComponentType) -> Sequence[Match]:
    """Rank the patterns of a component type, best first; equal scores are in order of their ids."""
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
    """Count a pattern's words; tags were chosen to be found by, so they count twice."""
    text = " ".join([pattern.name, pattern.description, *pattern.props, *pattern.tags, *pattern.tags])
    return Counter(_split(text))


def _split(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _words_of(blueprint: Blueprint) -> list[str]:
    options = [option for axis, options in blueprint.axes.items() for option in (axis, *options)]
    return options + [word for part in _parts(blueprint.variants[0].root) for word in (part.name, part.text or "")]


def _parts(part: Part) -> list[Part]:
    return [part, *(below for child in part.children for below in _parts(child))]
