"""Why an answer is not there: a small note per component of what was asked before, compared part by part.

A note holds the last few answers of one tenant, component type and design: short digests of what decided each, nothing
that could be read back. It is read only after a miss, and says what differs from the nearest earlier request. A note
that is gone, damaged or forged costs the reason, never an answer.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from forge_otel.keys import digest
from forge_otel.types import Call

__all__ = ["hint_key", "pack", "reason_of", "remember", "unpack"]

_MAX_NOTES: Final = 8
_MAX_BYTES: Final = 4096
_DIGITS: Final = 16
# In the order in which they are named: what an operator changed, then what a designer did.
_PARTS: Final = ("version", "content", "tokens", "requirements", "pattern")
_FIELDS: Final = len(_PARTS) + 2

Note = tuple[str, ...]
"""Digest of each part, then the start of the key, then when it was kept, seconds since 1970."""


def hint_key(call: Call) -> str:
    """Return the store's key of the note that `call` belongs to."""
    request = call.request
    who = [request.tenant, request.component_type, request.figma_key, request.screenshot_hash]
    return f"forge:hint:{digest(who)[:32]}"


def pack(notes: Sequence[Note]) -> bytes:
    """Return what is stored."""
    return orjson.dumps(notes)


def unpack(blob: bytes | None) -> list[Note]:
    """Read what was stored; empty where it is not what `pack` gives."""
    if blob is None or len(blob) > _MAX_BYTES:
        return []
    try:
        notes = orjson.loads(blob)
        found = [tuple(note) for note in notes[:_MAX_NOTES]]
    except (ValueError, TypeError, KeyError):
        return []
    return [note for note in found if len(note) == _FIELDS and all(isinstance(field, str) for field in note)]


def remember(notes: Sequence[Note], call: Call, *, version: str, now_s: float) -> list[Note]:
    """Return the notes with that of `call` in front; the oldest of too many is left out."""
    new = _note(call, version=version, now_s=now_s)
    return [new, *(note for note in notes if note[:-1] != new[:-1])][:_MAX_NOTES]


def reason_of(notes: Sequence[Note], call: Call, *, version: str, now_s: float, ttl_s: float | None) -> str:
    """Say why the answer to `call` is not there.

    Returns:
        `cold` where nothing like it was asked; `expired` or `evicted` where it was there; else the first
        part that differs from the nearest earlier request.
    """
    asked = _note(call, version=version, now_s=now_s)
    for note in notes:
        if note[len(_PARTS)] == asked[len(_PARTS)]:
            is_old = ttl_s is not None and note[-1].isdecimal() and now_s - int(note[-1]) >= ttl_s
            return "expired" if is_old else "evicted"
    differing = [
        [part for part, one, other in zip(_PARTS, asked, note, strict=False) if one != other] for note in notes
    ]
    nearest = min(differing, key=len, default=[])
    return nearest[0] if nearest else "cold"


def _note(call: Call, *, version: str, now_s: float) -> Note:
    request = call.request
    parts = ([call.pipeline, version], request.content_hash, request.tokens, request.requirements, request.pattern_id)
    return (*(digest(part)[:_DIGITS] for part in parts), call.key[:_DIGITS], str(int(now_s)))
