"""Writer of canonical JSON: RFC 8785 (JCS) with strings in Unicode NFC, in time linear in the size of the value."""

import functools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from itertools import chain, repeat
from typing import Any, Final
from uuid import UUID

import orjson

from forge_otel.errors import BadRequest

__all__ = ["CanonicalWriter", "quoted_text"]

# As deep as orjson parses: 512 layers of a Figma file, each of which is an object in a list.
_MAX_DEPTH: Final = 1024
# Each level of a set in a set copies the text of the inner one.
_MAX_SET_DEPTH: Final = 64
# Values that share members may be exponentially larger than the memory they take.
_MAX_MEMBERS: Final = 1_000_000
_MAX_CHARS: Final = 32 * 2**20
# CPython sorts the combining marks behind one letter in quadratic time; UAX #15 allows 30 in stream-safe text.
_MAX_MARKS: Final = 256
_TOO_MANY_MARKS: Final = re.compile(rb"[^\0]{%d}" % _MAX_MARKS)
_MAX_SAFE_INTEGER: Final = 2**53 - 1
# No design value is longer.
_MAX_SHORT_CHARS: Final = 80


class CanonicalWriter:
    """Writes the canonical form of one value, with a stack of its own in place of recursion.

    Args:
        quote: writes a string of at most 80 characters, `quoted_text` or a function with other spellings.
    """

    def __init__(self, quote: Callable[[str], str]) -> None:
        self._quote = quote
        self._parts: list[str] = []
        self._members_left = _MAX_MEMBERS
        self._chars_left = _MAX_CHARS
        self._set_depth = 0

    def bytes_of(self, value: Any) -> bytes:
        """Return the canonical form as UTF-8.

        Raises:
            BadRequest: as `forge_otel.keys.canonical`.
        """
        self._write(value)
        try:
            return "".join(self._parts).encode()
        except UnicodeEncodeError as exc:
            raise BadRequest("a string holds a lone surrogate; send valid Unicode") from exc

    def _write(self, value: Any) -> None:
        append, quote = self._parts.append, self._quote
        outer: list[tuple[Iterable[tuple[str, Any]], str]] = []
        members, closing = iter([("", value)]), ""
        while True:
            for prefix, member in members:
                kind = type(member)
                if kind is str and len(member) <= _MAX_SHORT_CHARS:
                    append(prefix + quote(member))
                elif kind is not dict and kind is not list and (text := self._scalar(member)) is not None:
                    append(prefix + text)
                else:
                    outer.append((members, closing))
                    members, opening, closing = self._open(member, len(outer))
                    append(prefix + opening)
                    break
            else:
                append(closing)
                if not outer:
                    return
                members, closing = outer.pop()  # type: ignore[assignment]

    def _scalar(self, value: Any) -> str | None:
        """Return the form of a value without members, or of a set; None for any other value."""
        if isinstance(value, Enum):
            # By value, as orjson writes it: the text of an `(int, Enum)` or `(str, Enum)` member is its name.
            value = value.value
        if isinstance(value, int | float):
            return _number(value)
        if isinstance(value, str | UUID):
            return self._string(str.__str__(value) if isinstance(value, str) else str(value))
        if isinstance(value, AbstractSet):
            return self._set(value)
        return "null" if value is None else None

    def _string(self, value: str) -> str:
        if len(value) <= _MAX_SHORT_CHARS:
            return self._quote(value)
        self._charge(chars=len(value))
        return quoted_text(value)

    def _open(self, value: Any, depth: int) -> tuple[Any, str, str]:
        """Return the members of a container with what precedes each, and its brackets."""
        if depth > _MAX_DEPTH:
            raise BadRequest(f"the value is nested deeper than {_MAX_DEPTH} levels")
        # The plain types first, because a check against an abstract class is slow.
        if type(value) is dict or isinstance(value, Mapping):
            return iter(self._object(value)), "{", "}"
        if isinstance(value, list | tuple):
            self._charge(members=len(value))
            return zip(_separators(len(value)), value, strict=True), "[", "]"
        raise BadRequest(f"a value of type {type(value).__name__} cannot be part of a key; send plain JSON")

    def _object(self, value: Mapping[Any, Any]) -> list[tuple[str, Any]]:
        count = len(value)
        try:
            names = "".join(value)
        except TypeError as exc:
            raise BadRequest("an object has a key that is not a string; JSON objects have string keys") from exc
        self._charge(members=count, chars=len(names))
        if names.isascii():
            order = sorted(value)
        else:
            value = {_nfc(key): member for key, member in value.items()}
            if len(value) != count:
                raise BadRequest("two keys of one object are equal after Unicode normalisation (NFC); rename one")
            # RFC 8785 §3.2.3 sorts by UTF-16 code units; beyond the BMP that differs from code points.
            order = sorted(value, key=_utf16)
        # Only short keys are worth the memory of a cache.
        quote_key = _short_key if len(names) <= _MAX_SHORT_CHARS else _quoted_key
        written = [(quote_key(key), value[key]) for key in order]
        if written:
            written[0] = (written[0][0][1:], written[0][1])
        return written

    def _set(self, value: AbstractSet[Any]) -> str:
        if self._set_depth == _MAX_SET_DEPTH:
            raise BadRequest(f"sets are nested deeper than {_MAX_SET_DEPTH} levels")
        self._charge(members=len(value))
        outer, texts = self._parts, set()
        self._set_depth += 1
        for member in value:
            self._parts = []
            self._write(member)
            texts.add("".join(self._parts))
        self._set_depth -= 1
        self._parts = outer
        # Members with equal canonical forms, such as 1 and 1.0, are one member.
        return f"[{','.join(sorted(texts))}]"

    def _charge(self, *, members: int = 0, chars: int = 0) -> None:
        self._members_left -= members
        self._chars_left -= chars
        if self._members_left < 0:
            raise BadRequest(f"the value has more than {_MAX_MEMBERS} members; send fewer")
        if self._chars_left < 0:
            raise BadRequest(f"the value has more than {_MAX_CHARS} characters; send fewer")


def _separators(count: int) -> Iterable[str]:
    return chain(("",), repeat(",", count - 1)) if count else ()


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def quoted_text(value: str) -> str:
    """Return a JSON string in NFC.

    Raises:
        BadRequest: the string holds a lone surrogate, or too many combining marks in a row.
    """
    return _quote(value if value.isascii() else _nfc(value))


@functools.lru_cache(maxsize=4096)
def _short_key(key: str) -> str:
    return _quoted_key(key)


def _quoted_key(key: str) -> str:
    return f",{_quote(str.__str__(key))}:"


def _nfc(value: str) -> str:
    if value.isascii():
        return value
    if len(value) >= _MAX_MARKS and _TOO_MANY_MARKS.search(bytes(map(unicodedata.combining, value))):
        raise BadRequest(f"a string holds {_MAX_MARKS} combining marks in a row; send valid Unicode")
    return unicodedata.normalize("NFC", value)


def _quote(value: str) -> str:
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return f'"{value}"'
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as exc:
        raise BadRequest("a string holds a lone surrogate; send valid Unicode") from exc


def _number(value: Any) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) > _MAX_SAFE_INTEGER:
            raise BadRequest("an integer is larger than 2^53 - 1; send it as a string")
        # Subclasses, such as those of numpy, have a text of their own.
        return str(int(value))
    if not math.isfinite(value):
        raise BadRequest("NaN and infinities are not JSON; leave the value out or send null")
    if value == int(value) and abs(value) <= _MAX_SAFE_INTEGER:
        return str(int(value))
    return _ecmascript(float(value))


def _ecmascript(value: float) -> str:
    """Format a double as ECMAScript does (RFC 8785 §3.2.2.3), from Python's shortest digits."""
    sign = "-" if value < 0 else ""
    mantissa, _, exponent_text = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # The decimal point follows `point` digits, counted from the first significant one.
    point = len(whole) + int(exponent_text or 0) - (len(whole + fraction) - len((whole + fraction).lstrip("0")))
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        body = digits.ljust(point, "0") if len(digits) <= point else f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        body = f"0.{'0' * -point}{digits}"
    else:
        head = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
        body = f"{head}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + body
