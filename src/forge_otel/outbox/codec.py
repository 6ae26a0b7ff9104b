"""Encoding of a `Record` for the journal: versioned, checksummed, readable by older and newer releases.

A frame is `FGR1`, the CRC-32 of the rest, the length of the head, the head as JSON, and the contents of the artifacts
as raw bytes. Unknown fields are ignored and missing ones get their default. NaN and infinities, which JSON lacks, are
read back as NaN, or as None in optional fields.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar

import orjson

from forge_otel.errors import ForgeError
from forge_otel.types import Artifact, Cost, Record, Step, Usage

__all__ = ["DamagedRecord", "decode", "decode_without_artifacts", "encode", "is_intact"]

_MAGIC: Final = b"FGR1"
_PREFIX: Final = struct.Struct("<4sII")
_HEAD_START: Final = _PREFIX.size
_CHECKED_FROM: Final = 8
# UTF-8 rejects lone surrogates, which a client can send in JSON.
_SURROGATES: Final = "surrogatepass"
# A space before the head marks one that orjson cannot write or read.
_LENIENT: Final = b" "
_RECORD, _COST, _STEP, _USAGE = (frozenset(item.name for item in fields(kind)) for kind in (Record, Cost, Step, Usage))
_RECORD_NAMES: Final = tuple(item.name for item in fields(Record))
_REQUIRED: Final = frozenset(
    item.name for item in fields(Record) if item.default is MISSING and item.default_factory is MISSING
)


T = TypeVar("T")


class DamagedRecord(ForgeError):
    """The bytes are not an intact record in a format that this release can read."""

    code = "damaged_record"
    title = "Damaged record"
    remedy = "Read the journal with the release that wrote it, or keep it as evidence: its record is lost."


def encode(record: Record) -> bytes:
    """Return the frame of `record`.

    Raises:
        TypeError: a value of the record does not have its declared type.
    """
    plain: dict[str, Any] = {name: getattr(record, name) for name in _RECORD_NAMES}
    contents = [_raw(content) for content in record.artifacts.values()]
    plain["artifacts"] = [
        [name, isinstance(content, str), len(raw)]
        for (name, content), raw in zip(record.artifacts.items(), contents, strict=True)
    ]
    head = _dumps(plain)
    checked = b"".join([len(head).to_bytes(4, "little"), head, *contents])
    return b"".join([_MAGIC, zlib.crc32(checked).to_bytes(4, "little"), checked])


def decode(data: bytes) -> Record:
    """Return the record in a frame.

    Raises:
        DamagedRecord: the frame is truncated, changed, foreign, or in a later format.
    """
    return _decoded(data, _record)


def decode_without_artifacts(data: bytes) -> Record:
    """Return a stand-in for the record in a frame, without its artifacts, in half the time of `decode`.

    The stand-in has the attributes of a record; its parts are plain objects, and its steps are mappings.

    Raises:
        DamagedRecord: the frame is truncated, changed, foreign, or in a later format.
    """
    return _decoded(data, _plain_record)


def _decoded(data: bytes, make: Callable[[dict[str, Any], bytes], Record]) -> Record:
    if len(data) < _HEAD_START or not data.startswith(_MAGIC):
        raise DamagedRecord("the bytes do not begin like a record; they are foreign, cut, or of a later format")
    _, _, head_length = _PREFIX.unpack_from(data)
    if not is_intact(data):
        raise DamagedRecord("the checksum of the record does not fit; a part of it is missing or was changed")
    try:
        plain = _loads(data[_HEAD_START : _HEAD_START + head_length])
        return make(plain, data[_HEAD_START + head_length :])
    except (ValueError, TypeError, KeyError, AttributeError, InvalidOperation) as exc:
        raise DamagedRecord(f"the record is whole but cannot be understood: {exc}") from exc


def is_intact(data: bytes) -> bool:
    """Return whether `data` is a complete frame whose checksum is right."""
    if len(data) < _HEAD_START or not data.startswith(_MAGIC):
        return False
    _, checksum, _ = _PREFIX.unpack_from(data)
    return bool(zlib.crc32(memoryview(data)[_CHECKED_FROM:]) == checksum)


def _record(plain: dict[str, Any], contents: bytes) -> Record:
    known = _known(plain, _RECORD)
    known["artifacts"] = dict(_artifacts(plain.get("artifacts", ()), contents))
    known["costs"] = tuple(Cost(**_cost(cost, _usage)) for cost in plain.get("costs", ()))
    known["steps"] = tuple(_step(step) for step in plain.get("steps", ()))
    return Record(**_converted(known))


def _plain_record(plain: dict[str, Any], _: bytes) -> Record:
    known = _known(plain, _RECORD)
    if not known.keys() >= _REQUIRED:
        raise KeyError(*sorted(_REQUIRED - known.keys()))
    known["artifacts"] = {}
    known["costs"] = tuple(_PlainCost(_cost(cost, _PlainUsage)) for cost in plain.get("costs", ()))
    known["steps"] = tuple(_known(step, _STEP) for step in plain.get("steps", ()))
    return _PlainRecord(_converted(known))


def _converted(known: dict[str, Any]) -> dict[str, Any]:
    known["created_at"] = datetime.fromisoformat(known["created_at"])
    known["duration_s"] = _float(known["duration_s"])
    known["degraded"] = tuple(known.get("degraded", ()))
    for name in ("cost_usd", "saved_usd"):
        known[name] = Decimal(known.get(name, 0))
    return known


def _artifacts(entries: list[list[Any]], contents: bytes) -> Iterator[tuple[str, Artifact]]:
    start = 0
    for name, is_text, length in entries:
        raw = contents[start : start + length]
        yield name, raw.decode("utf-8", _SURROGATES) if is_text else raw
        start += length


def _cost(plain: dict[str, Any], make_usage: Callable[[dict[str, Any]], Usage]) -> dict[str, Any]:
    known = _known(plain, _COST)
    known["usage"] = make_usage(_known(plain.get("usage", {}), _USAGE))
    amount = plain.get("amount_usd")
    known["amount_usd"] = None if amount is None else Decimal(amount)
    return known


def _usage(known: dict[str, Any]) -> Usage:
    return Usage(**known)


def _step(plain: dict[str, Any]) -> Step:
    known = _known(plain, _STEP)
    known["started_s"] = _float(plain["started_s"])
    known["duration_s"] = _float(plain["duration_s"])
    return Step(**known)


def _known(plain: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Return the known fields of a decoded object; the object itself if it has no others."""
    if plain.keys() <= names:
        return plain
    return {name: value for name, value in plain.items() if name in names}


class _Plain:
    """Object with the given attributes; missing ones are looked up in the class."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.__dict__ = plain


def _plain_class(kind: Callable[..., T]) -> Callable[[dict[str, Any]], T]:
    """Return a class whose objects have the attributes and defaults of the frozen dataclass `kind`."""
    # Making a frozen dataclass takes ten times as long.
    defaults = {item.name: item.default for item in fields(kind) if item.default is not MISSING}  # type: ignore[arg-type]
    made = {item.name: item.default_factory() for item in fields(kind) if item.default_factory is not MISSING}  # type: ignore[arg-type]
    return type(f"_Plain{kind.__name__}", (_Plain,), defaults | made)


_PlainRecord, _PlainCost, _PlainUsage = _plain_class(Record), _plain_class(Cost), _plain_class(Usage)


def _raw(content: Artifact) -> bytes:
    return content.encode("utf-8", _SURROGATES) if isinstance(content, str) else bytes(content)


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _plain(value: Any) -> Any:
    """Convert values that orjson rejects: money to text, times to ISO 8601, read-only mappings to dicts."""
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
        # orjson rejects lone surrogates and integers above 64 bits; the standard library writes both.
        return _LENIENT + json.dumps(plain, default=_plain).encode()


def _loads(head: bytes) -> dict[str, Any]:
    # orjson would read the large integers as floats.
    plain = json.loads(head) if head.startswith(_LENIENT) else orjson.loads(head)
    if not isinstance(plain, dict):
        raise DamagedRecord("the head of the record is not an object")
    return plain
