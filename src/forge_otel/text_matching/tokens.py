"""Splits text into tokens: normalised words, names, numbers with units, colours and quotations."""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from forge_otel.text_matching.lexicon import LABEL_WORDS, LINKS, NAMING, NO_NAMES, NUMBER_WORDS, UNITS, canonical_word

__all__ = ["Token", "tokenize"]

_UNITS: Final = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
_TOKEN: Final = re.compile(
    rf"""
    (?P<quoted> "[^"\n]*" | `[^`\n]*` | (?<!\w)'[^'\n]+'(?!\w)
              | \u201c[^\u201d\n]*\u201d | \u2018[^\u2019\n]*\u2019 | \u00ab[^\u00bb\n]*\u00bb )
  | (?P<color>  \#[0-9A-Za-z_-]+ )
  | (?P<number> (?:(?<![\w.)\]])[-+\u2212])? \d+(?:[.,]\d+)* (?:\ ?(?P<unit>{_UNITS})(?![\w%]))? (?!\w) )
  | (?P<word>   \w+(?:['\u2019.\-_]\w+)* )
  | (?P<end>    [.!?;]+(?=\s|$) | \n+ )
  | (?P<space>  \s+ )
  | (?P<symbol> . )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
# Number of words that are treated as names after a label word ("label") and after a naming word ("called").
_NAMES_AFTER_LABEL: Final = 3
_NAMES_AFTER_NAMING: Final = 8


@dataclass(frozen=True, slots=True)
class Token:
    """One word, number or sign.

    Args:
        text: normalised text: the value of a number, the base form of a known verb, a quotation verbatim.
        kind: `word`, `name` for a word compared by its spelling, `value` for a number, colour or quotation, `symbol`,
            or `end` of a sentence.
        spelling: the word as written, in lower case.
    """

    text: str
    kind: str
    spelling: str = ""


def tokenize(text: str) -> list[Token]:
    """Return the tokens of `text`; only known synonyms and spellings are normalised."""
    tokens = list(_tokens(unicodedata.normalize("NFC", text)))
    for position, (token, after) in enumerate(itertools.pairwise(tokens)):
        # A word before a label word is a name too, as in "the display prop".
        if token.kind == "word" and after.text in LABEL_WORDS and token.text not in NO_NAMES | LINKS:
            tokens[position] = Token(token.spelling, "name")
    return tokens


def _tokens(text: str) -> Iterator[Token]:
    names_left = 0
    is_first = True
    for match in _TOKEN.finditer(text):
        kind, found = match.lastgroup, match[0]
        if kind == "unit":
            kind = "number"
        if kind == "space":
            continue
        if kind == "word":
            token = _word(found, is_first=is_first, is_name=names_left > 0)
            names_left = _names_after(found.lower(), names_left)
            yield from _expanded(token)
        elif kind == "number":
            yield Token(_number(found, match["unit"]), "value")
        elif kind == "end":
            names_left = 0
            # A question differs from an instruction.
            yield from [Token("?", "symbol")] * ("?" in found)
            yield Token("", "end")
        else:
            if found == "," and names_left <= _NAMES_AFTER_LABEL:
                names_left = 0
            yield Token(*_sign(str(kind), found))
        is_first = kind == "end" or (is_first and kind == "symbol")


def _names_after(word: str, names_left: int) -> int:
    """Return how many words after `word` are names."""
    if word in NAMING:
        return _NAMES_AFTER_NAMING
    if names_left > _NAMES_AFTER_LABEL:
        return names_left - 1
    if word in LABEL_WORDS:
        return _NAMES_AFTER_LABEL
    if word in NO_NAMES:
        return 0
    return names_left if word in LINKS else names_left - 1


def _word(found: str, *, is_first: bool, is_name: bool) -> Token:
    word = found.replace("\u2019", "'")
    lower = word.lower()
    is_verbatim = any(letter.isupper() or letter.isdigit() or letter == "_" for letter in word[1:])
    # Capitals inside a sentence, digits and underscores mark identifiers and proper names.
    if is_verbatim or (word[0].isupper() and not is_first and lower != "i"):
        return Token(word, "name")
    if is_name and lower not in LABEL_WORDS | LINKS | NO_NAMES:
        return Token(lower, "name")
    if lower in NUMBER_WORDS:
        return Token(NUMBER_WORDS[lower], "value")
    return Token(canonical_word(lower), "word", lower)


def _expanded(token: Token) -> Iterator[Token]:
    """Expand a contraction."""
    word = token.text
    if token.kind == "word" and word.endswith("n't"):
        yield from (Token({"ca": "can", "wo": "will", "sha": "must"}.get(word[:-3], word[:-3]), "word"), _NOT)
    elif token.kind == "word" and word == "cannot":
        yield from (Token("can", "word"), _NOT)
    elif token.kind == "word" and word in {"it's", "that's", "there's"}:
        yield from (Token(word[:-2], "word"), Token("is", "word"))
    else:
        yield token


_NOT: Final = Token("not", "word")


def _number(found: str, unit: str | None) -> str:
    digits = found[: len(found) - len(unit)].strip() if unit else found
    digits = digits.replace("\u2212", "-")
    # A comma may be a decimal or a thousands separator, so such numbers are compared verbatim.
    if "," not in digits:
        with suppress(InvalidOperation):
            digits = format(Decimal(digits).normalize(), "f")
    return digits + (UNITS[unit.lower()] if unit else "")


def _sign(kind: str, found: str) -> tuple[str, str]:
    if kind == "color":
        return found.lower(), "value"
    if kind == "quoted":
        # All quotation marks are equivalent, but a backquoted name differs from a quoted text.
        return ("`" if found[0] == "`" else '"') + found[1:-1], "value"
    return found, "symbol"
