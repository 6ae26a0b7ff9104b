"""The value gate: a canonical form that two texts share only if one may be answered with the other's component.

The form keeps every token in its order. Two texts share it only after rewrites that are safe at their position; the
table in docs/caching.md lists them, and tests/unit/text_matching/adversarial.py tries to break each of them:

* the case of a sentence's first letter, white space, a single full stop or exclamation mark at the end;
* a polite opening before an order ("please", "could you … ?");
* a semicolon between two clauses that are sentences of their own and have no condition, and a full stop;
* contractions with one reading ("don't");
* American for British spelling ("colour");
* a number word before a plural noun or a unit ("two columns"), and the spelling of a unit behind a number ("16 px");
* a verb with the same meaning as the first word of an order, before a determiner ("display the icon");
* one condition, moved whole between the front and the back of an order that has nothing else to attach it to.

From a word that introduces a name ("label", "called", "option") to the end of the sentence nothing is rewritten, nor is
anything in quotation marks, behind a colon, or spelt with a capital inside a sentence.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from forge_otel.text_matching.lexicon import (
    ABOUT_READERS,
    AMERICAN,
    BEFORE_COUNTS,
    CONDITIONS,
    CONTRACTIONS,
    DETERMINERS,
    FINITE,
    IMPERATIVES,
    LITERAL_AFTER,
    NOT_MOVABLE,
    NUMBER_WORDS,
    PERFECT,
    POLITE,
    POLITE_QUESTIONS,
    QUESTION_VERBS,
    READERS,
    UNITS,
    VERB_OF,
)
from forge_otel.text_matching.tokens import Sentence, Token, sentences_of

__all__ = ["facts"]

_CONDITION_MARK: Final = "|"
# A noun of two letters is none, and "ss" ends no plural.
_SHORTEST_PLURAL: Final = 4


def facts(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the canonical form of `text`, a tuple of words for each sentence.

    A token that counts as it is spelt begins with `=`, so that no rewritten word equals it.
    """
    return tuple(itertools.chain.from_iterable(map(_canonical, sentences_of(text))))


def _canonical(sentence: Sentence) -> list[tuple[str, ...]]:
    """Return the form of a sentence, or of each of its clauses where a semicolon is as good as a full stop."""
    tokens = _expanded(sentence.tokens)
    clauses = _clauses(tokens)
    if len(clauses) > 1 and not sentence.end and all(map(_stands_alone, clauses)):
        return [_form(clause) for clause in clauses]
    if len(clauses) == 1:
        return [_form(tokens, end=sentence.end)]
    # A condition may govern the clauses behind it, too, and so must stay where it is.
    forms = [_form(clause, is_fixed=True) for clause in clauses[:-1]]
    forms.append(_form(clauses[-1], end=sentence.end, is_fixed=True))
    return [tuple(itertools.chain.from_iterable((";", *form) for form in forms))]


def _clauses(tokens: Sequence[Token]) -> list[list[Token]]:
    """Return the tokens between semicolons, up to a word from which they count as they are spelt."""
    clauses: list[list[Token]] = [[]]
    literal_from = _literal_from(tokens)
    for place, token in enumerate(tokens):
        if token.text == ";" and place < literal_from:
            clauses.append([])
        else:
            clauses[-1].append(token)
    return clauses


def _stands_alone(clause: Sequence[Token]) -> bool:
    words = {token.text for token in clause}
    has_verb = _is_order(_without_politeness([*clause], is_question=False)[0]) or not FINITE.isdisjoint(words)
    return has_verb and CONDITIONS.isdisjoint(words) and _literal_from(clause) == len(clause)


def _form(tokens: Sequence[Token], *, end: str = "", is_fixed: bool = False) -> tuple[str, ...]:
    tokens, is_polite_question = _without_politeness([*tokens], is_question=end == "?")
    literal_from = _literal_from(tokens)
    words = _with_counts(tokens[:literal_from])
    literals = [_as_spelt(token, is_first=not place) for place, token in enumerate(tokens[literal_from:], literal_from)]
    if not literals and not is_fixed:
        words = _condition_last(words)
    ending = [] if not end or is_polite_question else [f"=end {end}"]
    return (*_with_plain_verb(words), *literals, *ending)


def _as_spelt(token: Token, *, is_first: bool) -> str:
    # The capital of a sentence's first word says nothing.
    return f"={token.text}" if is_first else f"={' ' if token.is_spaced else ''}{token.spelt}"


def _literal_from(tokens: Sequence[Token]) -> int:
    """Return the index from which nothing is rewritten: the word before one that introduces a name, or a colon."""
    for place, token in enumerate(tokens):
        if token.text == ":":
            return place
        if token.kind == "word" and (token.text in LITERAL_AFTER or _singular(token.text) in LITERAL_AFTER):
            return max(place - 1, 0)
    return len(tokens)


def _singular(word: str) -> str:
    return word.removesuffix("s")


def _expanded(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens with contractions in full and in American spelling; each keeps its own spelling beside it."""
    found = []
    for token, after in itertools.zip_longest(tokens, tokens[1:]):
        is_perfect = token.text.endswith("'s") and after is not None and after.text in PERFECT
        if token.kind != "word" or is_perfect:
            found.append(token)
            continue
        words = CONTRACTIONS.get(token.text, (AMERICAN.get(token.text, token.text),))
        found += [replace(token, text=word) for word in words]
    return found


def _with_counts(tokens: Sequence[Token]) -> list[str]:
    """Return the words, with numbers and units in one spelling."""
    words: list[str] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        after = tokens[place + 1] if place + 1 < len(tokens) else None
        if token.kind == "number":
            words.append(_number(token))
        elif token.kind == "word" and token.text in NUMBER_WORDS and _is_count(tokens, place):
            words.append(NUMBER_WORDS[token.text])
            if after is not None and after.kind == "word" and _is_unit(after.text):
                words[-1] += UNITS[after.text]
                place += 1
        else:
            words.append(token.text if token.kind in {"word", "symbol"} else f"={token.text}")
        place += 1
    return words


def _number(token: Token) -> str:
    """Return a number as it is spelt, or its value with its unit."""
    # Without a unit it may be a version, and 1.10 is not 1.1.
    if not token.unit:
        return token.spelt
    digits = token.spelt.rstrip("abcdefghijklmnopqrstuvwxyzBM% ").replace("\u2212", "-")
    return f"{Decimal(digits).normalize():f}{token.unit}"


def _is_count(tokens: Sequence[Token], place: int) -> bool:
    """Return whether a number word counts what follows: a unit or a plural noun, behind a word that is no name."""
    before = tokens[place - 1] if place else None
    is_open = before is None or before.text == "," or (before.kind == "word" and before.text in BEFORE_COUNTS)
    following = [token.text for token in tokens[place + 1 : place + 3] if token.kind == "word"]
    return is_open and bool(following) and (_is_unit(following[0]) or any(map(_is_plural, following)))


def _is_unit(word: str) -> bool:
    # One letter behind a number word is an abbreviation of anything.
    return word in UNITS and len(word) > 1


def _is_plural(word: str) -> bool:
    return len(word) >= _SHORTEST_PLURAL and word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _without_politeness(tokens: list[Token], *, is_question: bool) -> tuple[list[Token], bool]:
    """Return the tokens behind polite openings, and whether one of them made a question of an order."""
    for opening in POLITE_QUESTIONS if is_question else ():
        rest = tokens[len(opening) :]
        # "Could you see it?" asks a question.
        is_order = _is_order(rest) and rest[0].text not in QUESTION_VERBS
        if _begins(tokens, opening) and (is_order or _begins(rest, ("please",))):
            return _without_politeness(rest, is_question=False)[0], True
    for opening in POLITE:
        rest = tokens[len(opening) :]
        rest = rest[1:] if rest and rest[0].text == "," else rest
        if _begins(tokens, opening) and (_is_order(rest) or _is_condition(rest) or _is_polite(rest)):
            return _without_politeness(rest, is_question=is_question)
    return tokens, False


def _begins(tokens: Sequence[Token], opening: Sequence[str]) -> bool:
    return [token.text for token in tokens[: len(opening)] if token.kind == "word"] == [*opening]


def _is_polite(tokens: Sequence[Token]) -> bool:
    return any(_begins(tokens, opening) for opening in POLITE)


def _is_condition(tokens: Sequence[Token]) -> bool:
    return len(tokens) > 1 and tokens[0].kind == "word" and tokens[0].text in CONDITIONS


def _is_order(tokens: Sequence[Token]) -> bool:
    return len(tokens) > 1 and tokens[0].kind == "word" and tokens[0].text in IMPERATIVES | QUESTION_VERBS


def _condition_last(words: list[str]) -> list[str]:
    """Move the one condition at the front of an order to its back, marked; mark it at the back, too."""
    places = [place for place, word in enumerate(words) if word in CONDITIONS]
    if len(places) != 1:
        return words
    if places[0]:
        main, condition = words[: places[0]], words[places[0] :]
    elif words.count(",") == 1:
        comma = words.index(",")
        main, condition = words[comma + 1 :], words[:comma]
    else:
        return words
    return [*main, _CONDITION_MARK, *condition] if _is_movable(main, condition) else words


# "Only show it when …" limits something else than "When …, only show it".
_SCOPED: Final = frozenset({"only", "never"})


def _is_movable(main: Sequence[str], condition: Sequence[str]) -> bool:
    """Return whether the condition can only belong to the whole main clause, on either side of it."""
    verb, *rest = main[2:] if tuple(main[:2]) == ("do", "not") else main or ("",)
    if verb not in IMPERATIVES - _SCOPED - QUESTION_VERBS or len(rest) < _FEWEST_OBJECT_WORDS or len(condition) == 1:
        return False
    # A participle or another verb in the main clause would be a second thing that the condition could belong to.
    is_simple = not any(
        _is_participle(word) or (word in IMPERATIVES and before not in DETERMINERS)
        for before, word in itertools.pairwise(["", *rest])
    )
    is_closed = (NOT_MOVABLE | READERS | _JOINS).isdisjoint(rest)
    is_clear = (_POINTERS | _JOINS).isdisjoint(condition)
    return is_simple and is_closed and is_clear


def _is_participle(word: str) -> bool:
    return word in {"used", "tied"} or (len(word) >= _SHORTEST_PARTICIPLE and word.endswith(("ing", "ed")))


_FEWEST_OBJECT_WORDS: Final = 2
_SHORTEST_PARTICIPLE: Final = 5
_POINTERS: Final = frozenset({"it", "its", "they", "them", "their", "this", "that", "these", "those", "he", "she"})
_JOINS: Final = frozenset({",", "and", "or", "but", "then", "only", "else", "otherwise", ";", "(", "-", "/"})


def _with_plain_verb(words: list[str]) -> list[str]:
    """Return the words with the first of an order's synonyms in front, where a determiner shows that it is a verb."""
    first = 2 if words[:2] == ["do", "not"] else 0
    verb, *rest = words[first : first + 3] or [""]
    is_determined = len(rest) > 1 and (rest[0] in DETERMINERS or rest[0][0].isdigit())
    is_verb = is_determined and (rest[1] not in READERS or verb in ABOUT_READERS)
    return [*words[:first], VERB_OF[verb], *words[first + 1 :]] if verb in VERB_OF and is_verb else words
