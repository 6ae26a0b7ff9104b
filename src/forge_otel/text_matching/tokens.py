"""Text to tokens: words, numbers with their units, quotations and signs, with the spelling that each had.

The reader is linear: every repetition is bounded, or over characters that cannot begin what follows it.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from forge_otel.text_matching.lexicon import ABBREVIATIONS, UNITS

__all__ = ["Sentence", "Token", "sentences_of"]

Kind = Literal["word", "number", "literal", "symbol"]

_UNITS: Final = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
# Quotations are bounded: without a bound, thousands of opening quotes would each be read to the end of the line.
_TOKEN: Final = re.compile(
    rf"""
    (?P<literal> "[^"\n]{{0,200}}" | `[^`\n]{{0,200}}` | (?<!\w)'[^'\n]{{1,200}}'(?!\w)
               | \u201c[^\u201d\n]{{0,200}}\u201d | \u2018[^\u2019\n]{{0,200}}\u2019 | \u00ab[^\u00bb\n]{{0,200}}\u00bb
               | \#[0-9A-Za-z_-]{{1,64}} )
  | (?P<number>  (?:(?<![\w.)\]])[-+\u2212])? \d{{1,32}}(?:\.\d{{1,32}})?
                 (?:\ ?(?P<unit>{_UNITS})(?![\w%-]))? (?![.,]?\w) )
  | (?P<figure>  \d{{1,32}}(?:[.,]\d{{1,32}}){{1,8}}(?!\w) )
  | (?P<word>    \w+(?:['\u2019.\-_]\w+)* )
  | (?P<newline> \n )
  | (?P<space>   \s )
  | (?P<symbol>  . )
    """,
    re.VERBOSE | re.DOTALL,
)
_PLAIN_WORD: Final = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of a text.

    Args:
        kind: `word` in lower case, `number` with or without a unit, `symbol`, or `literal`: a quotation, a colour or a
            name, which counts as it is spelt.
        text: the piece as it counts.
        spelt: the piece as it stands in the text.
        unit: of a number with a unit, in its short spelling.
        is_spaced: whether white space stands before it.
    """

    kind: Kind
    text: str
    spelt: str
    unit: str = ""
    is_spaced: bool = False


@dataclass(frozen=True, slots=True)
class Sentence:
    """The tokens between two sentence ends.

    Args:
        tokens: in their order.
        end: the sign that ended it where that is more than a full stop: `?`, `…`, a line break, or nothing.
    """

    tokens: tuple[Token, ...]
    end: str = ""


def sentences_of(text: str) -> list[Sentence]:
    """Return the sentences of `text`; those without a token are left out."""
    found: list[Sentence] = []
    tokens: list[Token] = []
    has_word = False
    pieces = list(_pieces(unicodedata.normalize("NFC", text).replace("\r\n", "\n")))
    for place, (kind, spelt, unit) in enumerate(pieces):
        if kind == "newline" or (kind == "symbol" and spelt in ".!?\u2026" and _ends(pieces, place, tokens)):
            if tokens:
                found.append(Sentence(tuple(tokens), _end_sign(kind, spelt, pieces, place)))
                tokens, has_word = [], False
            continue
        if kind != "space":
            is_spaced = bool(tokens) and pieces[place - 1][0] == "space"
            tokens.append(replace(_token(kind, spelt, unit, is_first=not has_word), is_spaced=is_spaced))
            has_word = has_word or kind == "word"
    if tokens:
        found.append(Sentence(tuple(tokens)))
    return found


def _pieces(text: str) -> Iterator[tuple[str, str, str]]:
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "symbol"
        yield ("number" if kind == "unit" else kind), match[0], match["unit"] or ""


def _ends(pieces: list[tuple[str, str, str]], place: int, tokens: list[Token]) -> bool:
    """Return whether the sign at `place` ends a sentence: white space follows, and no abbreviation stands before it."""
    before = tokens[-1].text if tokens else ""
    if pieces[place][1] == "." and before in ABBREVIATIONS:
        return False
    after = pieces[place + 1][0] if place + 1 < len(pieces) else "space"
    return after in {"space", "newline"}


def _end_sign(kind: str, spelt: str, pieces: list[tuple[str, str, str]], place: int) -> str:
    if kind == "newline":
        return "\n"
    is_repeated = place > 0 and pieces[place - 1][1] in {".", "!", "?", "\u2026"}
    return spelt if spelt in "?\u2026" or is_repeated else ""


def _token(kind: str, spelt: str, unit: str, *, is_first: bool) -> Token:
    if kind == "number":
        return Token("number", spelt, spelt, UNITS[unit] if unit else "")
    if kind == "word":
        word = spelt.replace("\u2019", "'")
        is_plain = _PLAIN_WORD.fullmatch(word) is not None or "-" in word or "." in word
        # A capital marks a name, but for that of the first word; "ID" and "iPhone" are names everywhere.
        if is_plain and word[1:] == word[1:].lower() and (word[0] == word[0].lower() or is_first or word == "I"):
            return Token("word", word.lower(), spelt)
        return Token("literal", word, spelt)
    return Token("symbol" if kind == "symbol" else "literal", spelt, spelt)
