"""`Record` ↔ bytes for the journal: versioned, checked, and readable by older and newer releases.

A frame is ``FGR1``, CRC-32 of all that follows, length of the head, the head as JSON, and behind it the contents of
the artifacts as raw bytes: a 2 MB artifact is neither escaped nor copied through JSON. Fields that a newer release
added are ignored, those that an older one did not know get their default; what cannot be read at all raises
`DamagedRecord`. NaN and infinities, which JSON cannot say, are read back as NaN, or None where a field may be absent.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

import orjson

from forge_otel.errors import ForgeError
from forge_otel.types import Artifact, Cost, Record, Step, Usage

__all__ = ["DamagedRecord", "decode", "encode", "is_whole"]

_MAGIC = b"FGR1"
_PREFIX = struct.Struct("<4sII")
_HEAD_START = _PREFIX.size
_CHECKED_FROM = 8
# The default encodings of str and bytes refuse lone surrogates, which a client can send in JSON.
_SURROGATES = "surrogatepass"
# White space before a head says that orjson could not write it, and so cannot read it either.
_LENIENT = b" "


class DamagedRecord(ForgeError):
    """The bytes are not a whole record of a version that this release can read."""

    code = "damaged_record"
    title = "Damaged record"
    remedy = "Read the journal with the release that wrote it, or keep it as evidence: its record is lost."


def encode(record: Record) -> bytes:
    """Return the frame of `record`, which `decode` turns back without loss.

    Raises:
        TypeError: the record holds a value that its types do not allow.
    """
    plain: dict[str, Any] = {name: getattr(record, name) for name in _names(Record)}
    contents = [_raw(content) for content in record.artifacts.values()]
    plain["artifacts"] = [
        [name, isinstance(content, str), len(raw)]
        for (name, content), raw in zip(record.artifacts.items(), contents, strict=True)
    ]
    head = _dumps(plain)
    checked = b"".join([len(head).to_bytes(4, "little"), head, *contents])
    return b"".join([_MAGIC, zlib.crc32(checked).to_bytes(4, "little"), checked])


def decode(data: bytes) -> Record:
    """Return the record whose frame `data` is.

    Raises:
        DamagedRecord: `data` is cut, changed, foreign, or of a later format.
    """
    if len(data) < _HEAD_START or not data.startswith(_MAGIC):
        raise DamagedRecord("the bytes do not begin like a record; they are foreign, cut, or of a later format")
    _, _, head_length = _PREFIX.unpack_from(data)
    if not is_whole(data):
        raise DamagedRecord("the checksum of the record does not fit; a part of it is missing or was changed")
    try:
        plain = _loads(data[_HEAD_START : _HEAD_START + head_length])
        return _record(plain, data[_HEAD_START + head_length :])
    except (ValueError, TypeError, KeyError, AttributeError, InvalidOperation) as exc:
        raise DamagedRecord(f"the record is whole but cannot be understood: {exc}") from exc


def is_whole(data: bytes) -> bool:
    """Say whether `data` is a frame, unchanged since it was written."""
    if len(data) < _HEAD_START or not data.startswith(_MAGIC):
        return False
    _, checksum, _ = _PREFIX.unpack_from(data)
    return bool(zlib.crc32(memoryview(data)[_CHECKED_FROM:]) == checksum)


def _record(plain: dict[str, Any], contents: bytes) -> Record:
    known = {name: plain[name] for name in _names(Record) if name in plain}
    known["created_at"] = datetime.fromisoformat(plain["created_at"])
    known["duration_s"] = _float(plain["duration_s"])
    known["artifacts"] = dict(_artifacts(plain.get("artifacts", ()), contents))
    known["costs"] = tuple(_cost(cost) for cost in plain.get("costs", ()))
    known["steps"] = tuple(_step(step) for step in plain.get("steps", ()))
    known["degraded"] = tuple(plain.get("degraded", ()))
    for name in ("cost_usd", "saved_usd"):
        known[name] = Decimal(plain.get(name, 0))
    return Record(**known)


def _artifacts(entries: list[list[Any]], contents: bytes) -> Iterator[tuple[str, Artifact]]:
    start = 0
    for name, is_text, length in entries:
        raw = contents[start : start + length]
        yield name, raw.decode("utf-8", _SURROGATES) if is_text else raw
        start += length


def _cost(plain: dict[str, Any]) -> Cost:
    known = {name: plain[name] for name in _names(Cost) if name in plain}
    usage = plain.get("usage", {})
    known["usage"] = Usage(**{name: usage[name] for name in _names(Usage) if name in usage})
    amount = plain.get("amount_usd")
    known["amount_usd"] = None if amount is None else Decimal(amount)
    return Cost(**known)


def _step(plain: dict[str, Any]) -> Step:
    known = {name: plain[name] for name in _names(Step) if name in plain}
    return Step(**(known | {name: _float(plain[name]) for name in ("started_s", "duration_s")}))


def _raw(content: Artifact) -> bytes:
    return content.encode("utf-8", _SURROGATES) if isinstance(content, str) else bytes(content)


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))


def _plain(value: Any) -> Any:
    """Say what orjson cannot: money as text, times with their offset to the microsecond, read-only mappings."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Cost | Step | Usage):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    raise TypeError(f"a record cannot hold a value of type {type(value).__name__}")


def _dumps(plain: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(plain, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except orjson.JSONEncodeError:
        # Lone surrogates and integers above 64 bits, which orjson refuses and the standard library writes.
        return _LENIENT + json.dumps(plain, default=_plain).encode()


def _loads(head: bytes) -> dict[str, Any]:
    # orjson would read the large integers as floats.
    plain = json.loads(head) if head.startswith(_LENIENT) else orjson.loads(head)
    if not isinstance(plain, dict):
        raise DamagedRecord("the head of the record is not an object")
    return plain
