"""Explains misses: compares a request with the fingerprints of earlier requests, part by part.

The store keeps a short history per tenant, component type and design, as truncated digests from which nothing can be
recovered. It is read only after a miss. A history that is lost, damaged or forged costs the reason, never an answer.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from forge_otel.keys import digest, requirements_digest_of, tokens_digest_of
from forge_otel.types import Call

__all__ = ["Fingerprint", "explain", "history_key", "pack", "remember", "unpack"]

_MAX_FINGERPRINTS: Final = 8
# A forged history must not take long to parse.
_MAX_BYTES: Final = 4096
_DIGITS: Final = 16
# The first part that differs names the reason: changes by operators before changes by designers.
_PARTS: Final = ("version", "content", "tokens", "requirements", "pattern")
_FIELDS: Final = len(_PARTS) + 3
# A forged history must not bring new values into metrics.
_NOT_STORED: Final = frozenset({"not_serialisable", "too_large"})

Fingerprint = tuple[str, ...]
"""A digest for each part, the start of the key, why the answer was not stored ("" if it was), and the time in seconds
since 1970."""


def history_key(call: Call) -> str:
    """Return the store's key of the history that `call` belongs to."""
    request = call.request
    scope = [request.tenant, request.component_type, request.figma_key, request.screenshot_hash]
    return f"forge:hint:{digest(scope)[:32]}"


def pack(history: Sequence[Fingerprint]) -> bytes:
    """Serialise a history."""
    return orjson.dumps(history)


def unpack(blob: bytes | None) -> list[Fingerprint]:
    """Deserialise a history; empty if `blob` is not one."""
    if blob is None or len(blob) > _MAX_BYTES:
        return []
    try:
        data = orjson.loads(blob)
        found = [tuple(fields) for fields in data[:_MAX_FINGERPRINTS]]
    except (ValueError, TypeError, KeyError):
        return []
    return [fields for fields in found if len(fields) == _FIELDS and all(isinstance(field, str) for field in fields)]


def remember(
    history: Sequence[Fingerprint], call: Call, *, version: str, now_s: float, not_stored: str = ""
) -> list[Fingerprint]:
    """Return the history with `call` in front, limited to 8 fingerprints.

    Args:
        not_stored: why the answer was not stored; "" if it was.
    """
    new = _fingerprint(call, version=version, now_s=now_s, not_stored=not_stored)
    # A repeated request only renews its state and time.
    return [new, *(old for old in history if old[:-2] != new[:-2])][:_MAX_FINGERPRINTS]


def explain(history: Sequence[Fingerprint], call: Call, *, version: str, now_s: float, ttl_s: float | None) -> str:
    """Return the reason of a miss.

    Returns:
        `expired` or `evicted` if the answer was stored before, or why it could not be stored; `cold` if the history is
        empty; otherwise the first part that differs from the most similar earlier request.
    """
    new = _fingerprint(call, version=version, now_s=now_s)
    for old in history:
        if old[len(_PARTS)] == new[len(_PARTS)]:
            if old[-2] in _NOT_STORED:
                return old[-2]
            is_expired = ttl_s is not None and old[-1].isdecimal() and now_s - int(old[-1]) >= ttl_s
            return "expired" if is_expired else "evicted"
    differing = [[part for part, one, other in zip(_PARTS, new, old, strict=False) if one != other] for old in history]
    nearest = min(differing, key=len, default=[])
    return nearest[0] if nearest else "cold"


def _fingerprint(call: Call, *, version: str, now_s: float, not_stored: str = "") -> Fingerprint:
    request = call.request
    parts = (
        *(digest([call.pipeline, version]), digest(request.content_hash)),
        *(tokens_digest_of(call), requirements_digest_of(call), digest(request.pattern_id)),
    )
    return (*(part[:_DIGITS] for part in parts), call.key[:_DIGITS], not_stored, str(int(now_s)))
