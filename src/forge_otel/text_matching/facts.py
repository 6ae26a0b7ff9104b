"""The value gate: reduces a text to the facts that must be equal in a paraphrase.

Numbers, units, colours, names, quotations, negations and all words outside the published synonym list must be equal and
in the same order. Paraphrases may differ in articles and politeness, synonyms (`forge_otel.text_matching.lexicon`),
contractions, inflections of known verbs, `two` and `2`, `16 px` and `16px`, and in word order where it is irrelevant:

* a condition before or after its main clause, in a sentence with one of each;
* the members of a list in which each member has an article (`a title and an icon`);
* independent sentences.

Any other difference makes another text, because a miss costs less than a wrong answer.
"""

import itertools
from collections.abc import Sequence
from typing import Final

from forge_otel.text_matching.lexicon import (
    ANAPHORA,
    ARTICLES,
    AUXILIARIES,
    FILLERS,
    NEGATIONS,
    OPENINGS,
    SUBORDINATORS,
    VERBS,
)
from forge_otel.text_matching.tokens import Token, tokenize

__all__ = ["facts"]

Sentence = tuple[str, ...]

_MAX_MEMBER_WORDS: Final = 3
_JOINS: Final = frozenset({",", "and"})
_PREPOSITIONS: Final = frozenset(
    {"in", "on", "at", "of", "for", "to", "from", "by", "with", "as", "into", "under", "over"}
)


def facts(text: str) -> tuple[Sentence, ...]:
    """Return the facts of `text` as normalised sentences; equal results mean that the texts are paraphrases."""
    sentences = [_sentence(tokens) for tokens in _split(tokenize(text))]
    sentences = [sentence for sentence in sentences if sentence]
    # The order of sentences matters if one refers to another.
    if all(map(_is_independent, sentences)) and not _refers_back(text):
        sentences.sort()
    return tuple(sentences)


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    groups = itertools.groupby(tokens, key=lambda token: token.kind == "end")
    return [list(group) for is_end, group in groups if not is_end]


def _sentence(tokens: Sequence[Token]) -> Sentence:
    words = _without_opening([_word(token) for token in tokens])
    is_negated = not NEGATIONS.isdisjoint(words)
    # "must not" forbids and "need not" permits: a modal verb is redundant only in a sentence without negation.
    dropped = FILLERS if is_negated else FILLERS | {"must"}
    words = [word for word in words if word not in dropped]
    return _in_order(_condition_last(words))


def _word(token: Token) -> str:
    # The prefix keeps a name or a quotation from being treated as a word of the lexicon.
    return token.text if token.kind in {"word", "symbol"} else f"={token.text}"


def _without_opening(words: list[str]) -> list[str]:
    words = list(itertools.dropwhile(lambda word: word in {"please", "kindly", ","}, words))
    for opening in OPENINGS:
        if tuple(words[: len(opening)]) == opening:
            return _without_opening(words[len(opening) :])
    return words


def _condition_last(words: list[str]) -> list[str]:
    """Move the only condition of a sentence behind its main clause, after a mark; other sentences are unchanged."""
    positions = [position for position, word in enumerate(words) if word in SUBORDINATORS]
    # With two conditions it is unclear which one belongs to the main clause.
    if len(positions) != 1:
        return words
    start = positions[0]
    if start:
        main, condition = words[:start], words[start:]
        if main[-1] == ",":
            main = main[:-1]
    elif "," in words:
        comma = words.index(",")
        main, condition = words[comma + 1 :], words[:comma]
    else:
        return words
    is_simple = main and not {",", "and", "or", "but", ":"} & set(main) and "," not in condition
    return [*main, "|", *condition] if is_simple else words


def _in_order(words: list[str]) -> Sentence:
    """Sort the members of a list with articles, then drop the articles."""
    found = _list_in(words)
    if found is not None:
        start, end, members = found
        joined = itertools.chain.from_iterable((*member, "and") for member in sorted(members))
        words = [*words[:start], *list(joined)[:-1], *words[end:]]
    kept = [word for word in words if word not in ARTICLES]
    # The serial comma is optional in English.
    return tuple(
        word
        for word, after in itertools.zip_longest(kept, kept[1:])
        if not (word == "," and after in {"and", "or", None})
    )


def _list_in(words: Sequence[str]) -> tuple[int, int, list[tuple[str, ...]]] | None:
    """Return start, end and members of a list at the end of the sentence or its main clause; None without one."""
    end = words.index("|") if "|" in words else len(words)
    start, members = end, list[tuple[str, ...]]()
    for position in range(end - 1, -1, -1):
        if words[position] not in ARTICLES:
            continue
        member = tuple(itertools.dropwhile(lambda word: word in ARTICLES, words[position:start]))
        joins = list(itertools.takewhile(lambda word: word in _JOINS, reversed(member)))
        member = member[: len(member) - len(joins)]
        is_last = start == end
        if not _is_member(member) or is_last == bool(joins):
            break
        members.append((words[position], *member))
        start = position
    return (start, end, members) if len(members) > 1 and "and" in words[start:end] else None


def _is_member(words: Sequence[str]) -> bool:
    is_short = 0 < len(words) <= _MAX_MEMBER_WORDS
    return is_short and (
        _JOINS | _PREPOSITIONS | VERBS | AUXILIARIES | NEGATIONS | SUBORDINATORS | {"or", ":"}
    ).isdisjoint(words)


def _is_independent(sentence: Sentence) -> bool:
    has_verb = len(sentence) > 1 and not VERBS.isdisjoint(sentence)
    is_statement = not AUXILIARIES.isdisjoint(sentence[1:-1])
    return (has_verb or is_statement) and ANAPHORA.isdisjoint(sentence)


def _refers_back(text: str) -> bool:
    """Return whether a sentence begins with "the" and another contains "a", so that their order may matter."""
    sentences = [[token.text for token in tokens] for tokens in _split(tokenize(text))]
    definite = {number for number, words in enumerate(sentences) if words and words[0] == "the"}
    introducing = {number for number, words in enumerate(sentences) if not {"a", "an"}.isdisjoint(words)}
    return any(one != other for one in definite for other in introducing)
