"""Write TSX fragments; text from designs and callers enters the code only as string literals and comments."""

import json
import re
from collections.abc import Mapping

__all__ = ["comment", "indented", "literal", "object_literal"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_UNSAFE_IN_COMMENT = re.compile(r"[^ -~]|[<>*]")


def literal(text: str) -> str:
    """Return a string literal in ASCII."""
    # "<" is escaped as well, so that "</script>" cannot appear.
    return json.dumps(text).replace("<", "\\u003c")


def comment(text: str, *, max_chars: int = 80) -> str:
    """Return a text that is safe inside a block comment, truncated to `max_chars`."""
    return _UNSAFE_IN_COMMENT.sub("", text[:max_chars]).strip()


def object_literal(values: Mapping[str, str]) -> str:
    """Return ``{ key: "value" }`` on one line."""
    if not values:
        return "{}"
    pairs = (f"{_key(name)}: {literal(value)}" for name, value in values.items())
    return "{ " + ", ".join(pairs) + " }"


def indented(lines: list[str], *, by: int = 2) -> list[str]:
    """Return the lines indented by `by` spaces; empty lines stay empty."""
    return [" " * by + line if line else line for line in lines]


def _key(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else literal(name)
