"""Miss reasons in words, for the output of the commands."""

from typing import Final

__all__ = ["describe"]

_DESCRIPTIONS: Final = {
    "cold": "no earlier request like this one",
    "version": "the earlier result is from another pipeline or pipeline version",
    "content": "the design has changed",
    "tokens": "the design tokens differ from the nearest earlier request",
    "requirements": "the requirements differ from the nearest earlier request",
    "pattern": "the nearest earlier request used another pattern",
    "epoch": "the entry was invalidated",
    "expired": "the TTL of the entry had passed",
    "evicted": "the entry is no longer in the store",
    "not_serialisable": "the earlier result was not cached: its metadata or texts have no JSON form",
    "too_large": "the earlier result was not cached: it is larger than FORGE_CACHE_MAX_ENTRY_BYTES",
    "corrupt": "the entry was damaged, foreign, or sealed with another secret",
    "backend_down": "the store was unavailable",
    "no_text": "the request has no text to compare",
    "too_long": "the text of the request is too long to compare",
    "hook_failed": "the hook of the layer failed",
    "threshold": "no earlier request with similar enough wording",
    "value_gate": "similar wording, but a value differs, such as a number",
    "no_pattern": "the request names no pattern",
    "retheme": "the pattern is stored for other design tokens only",
    "partial": "the pattern covered a part of the answer only",
}


def describe(reason: str) -> str:
    """Return a miss reason in words, followed by its name in metrics."""
    return f"{_DESCRIPTIONS[reason]} ({reason})" if reason in _DESCRIPTIONS else reason
