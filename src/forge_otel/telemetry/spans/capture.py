"""Size and contents of function inputs and outputs: sizes are always recorded, contents only where they are captured.

A size approximates the length of the value as JSON. It is an estimate, because every decorated call takes it: texts and
bytes are measured, containers by at most `MAX_VISITED` of their values and extrapolated, in constant time.

Contents are valid JSON of limited length. Values under secret names are replaced at any depth, as are secrets inside
of texts and keys (see `forge_otel.telemetry.redaction`); if redaction fails, nothing of the value is recorded.
"""

import dataclasses
import logging
import sys
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any, Final

import orjson

from forge_otel.telemetry.redaction import REDACTED, is_secret_name, scrub, scrub_name

__all__ = ["MAX_CONTENT_BYTES", "MAX_VISITED", "REDACTED", "estimate_size", "redact", "to_json"]

_logger = logging.getLogger(__name__)

MAX_VISITED: Final = 128
MAX_CONTENT_BYTES: Final = 16 * 1024
# Characters searched beyond the kept ones, so that a secret across the cut is found.
_MARGIN: Final = 4_096
_UNREADABLE: Final = '{"_redaction_failed":true}'
_MAX_DEPTH: Final = 64
# Longer names are rare, and would fill the cache of scrubbed names.
_MAX_NAME: Final = 100
# A number, a boolean, an opaque object.
_SCALAR_SIZE: Final = 8
_SCALARS: Final = frozenset({int, float, bool, type(None)})
# Two quotes, a colon and a comma of a JSON member.
_SEPARATORS_SIZE: Final = 4
# Tried in order until the JSON fits: characters kept of a text, items kept of a container.
_SHAPES: Final = ((MAX_CONTENT_BYTES, 1_000), (2_000, 200), (500, 50), (100, 20), (30, 5))
_MAX_VALUES: Final = 5_000


def estimate_size(value: object) -> int:
    """Return the estimated size of `value` in bytes, 0 if it cannot be read."""
    kind = type(value)
    if kind is str:
        return _text_size(value)  # type: ignore[arg-type]  # the exact type is known
    if value is None:
        return 0
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value)
    try:
        return _Estimate().of(value)
    except Exception:
        # A foreign container may raise anything, which must not reach the decorated call.
        return 0


def _text_size(text: str) -> int:
    # isascii reads a flag; encoding copies the whole text.
    if text.isascii():
        return len(text)
    head = text[:1024]
    return len(head.encode("utf-8", "surrogatepass")) * len(text) // len(head)


class _Estimate:
    """Traversal of a value that visits a limited number of items."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_VISITED

    def of(self, value: Any) -> int:
        kind = type(value)
        # Exact types first: values parsed from JSON have no others, and `isinstance` is slower.
        if kind is str:
            return _text_size(value)
        if kind in _SCALARS:
            return _SCALAR_SIZE
        if kind is dict:
            return self._mapping(value)
        if isinstance(value, list | tuple | set | frozenset):
            return self._sequence(value)
        return self._other(value)

    def _other(self, value: Any) -> int:
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, str | bytes | bytearray | memoryview):
            return len(value)
        fields = _fields(value)
        return _SCALAR_SIZE if fields is None else self._mapping(fields)

    def _take(self, count: int) -> int:
        """Return how many of `count` items to visit."""
        # A quarter of the rest, which leaves some for the items of the items.
        seen = min(count, self._left // 4)
        self._left -= seen
        return seen

    def _mapping(self, fields: Mapping[Any, Any]) -> int:
        count = len(fields)
        seen = self._take(count)
        total = seen * _SEPARATORS_SIZE
        for key, item in fields.items() if seen == count else islice(fields.items(), seen):
            total += len(key) if type(key) is str else _SCALAR_SIZE
            total += len(item) if type(item) is str and item.isascii() else self.of(item)
        return _extrapolated(total, seen, count)

    def _sequence(self, items: Collection[Any]) -> int:
        count = len(items)
        seen = self._take(count)
        total = seen
        for item in items if seen == count else islice(items, seen):
            total += len(item) if type(item) is str and item.isascii() else self.of(item)
        return _extrapolated(total, seen, count)


def _extrapolated(total: int, seen: int, count: int) -> int:
    if seen == count:
        return 2 + total
    return 2 + (total * count // seen if seen else count * _SCALAR_SIZE)


def _fields(value: object) -> Mapping[str, Any] | None:
    """Return the fields of a plain object, or None."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    fields = getattr(value, "__dict__", None)
    return fields if isinstance(fields, dict) and fields and not isinstance(value, type) else None


def to_json(value: object, *, max_bytes: int = MAX_CONTENT_BYTES) -> str:
    """Return `value` as valid JSON of at most `max_bytes` bytes, without secrets.

    Args:
        value: any object; types unknown to JSON are replaced by their name.
        max_bytes: at least 64; longer values are truncated inside, with a marker.
    """
    try:
        for max_chars, max_items in _SHAPES:
            text = orjson.dumps(_Copier(max_chars, max_items, max_values=_MAX_VALUES).copy(value, 0))
            if len(text) <= max_bytes:
                return text.decode()
        return orjson.dumps({"_truncated": True, "_bytes": estimate_size(value)}).decode()
    except Exception:
        _logger.debug("value could not be redacted and was left out", exc_info=True)
        return _UNREADABLE


def redact(value: object) -> Any:
    """Return a copy of `value` in JSON types, with the values under secret names replaced at any depth."""
    return _Copier(sys.maxsize, sys.maxsize, max_values=sys.maxsize).copy(value, 0)


class _Copier:
    """A copy of a value in JSON types, redacted and within limits."""

    def __init__(self, max_chars: int, max_items: int, *, max_values: int) -> None:
        self._max_chars = max_chars
        self._max_items = max_items
        self._left = max_values

    def copy(self, value: object, depth: int) -> Any:
        self._left -= 1
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            # orjson refuses integers beyond 64 bits.
            return value if -(2**63) <= value < 2**63 else f"<{value.bit_length()}-bit integer>"
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        return {"_truncated": True} if depth >= _MAX_DEPTH or self._left < 0 else self._container(value, depth)

    def _container(self, value: object, depth: int) -> Any:
        if isinstance(value, list | tuple | set | frozenset):
            if len(value) == 2 and isinstance(value, list | tuple) and _names_secret(value[0]):
                return [self.copy(value[0], depth + 1), REDACTED]
            kept = [self.copy(item, depth + 1) for item in islice(value, self._max_items)]
            return [*kept, {"_truncated": len(value) - len(kept)}] if len(kept) < len(value) else kept
        fields = value if isinstance(value, Mapping) else _fields(value)
        return f"<{type(value).__name__}>" if fields is None else self._mapping(fields, depth)

    def _mapping(self, fields: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        # A header or a parameter in the form {"name": …, "value": …}.
        is_pair = "value" in fields and any(_names_secret(fields.get(name)) for name in ("name", "key"))
        for key, item in islice(fields.items(), self._max_items):
            name = key if isinstance(key, str) else str(key)
            is_secret = is_secret_name(name) or (is_pair and name == "value")
            kept[self._name(name)] = REDACTED if is_secret else self.copy(item, depth + 1)
        if len(fields) > self._max_items:
            kept["_truncated"] = len(fields) - self._max_items
        return kept

    def _name(self, name: str) -> str:
        is_usual = len(name) <= min(_MAX_NAME, self._max_chars) and name.isascii()
        return scrub_name(name) if is_usual else self._text(name)

    def _text(self, text: str) -> str:
        whole = len(text)
        text = scrub(text[: self._max_chars + _MARGIN])
        if len(text) > self._max_chars:
            text = f"{text[: self._max_chars]}… (+{max(whole, len(text)) - self._max_chars})"
        # orjson refuses a text with a lone surrogate, and with it the whole value.
        return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _names_secret(name: object) -> bool:
    return isinstance(name, str) and is_secret_name(name)
