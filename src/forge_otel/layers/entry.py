"""What a cache entry looks like on the wire: framed, authenticated, versioned, never pickled.

::

    magic "FGE1" · MAC (32 bytes) · codec (1 byte) · created, ms since 1970 (8 bytes) · payload

The MAC is HMAC-SHA256 over the entry's key and everything after the MAC, so that a flipped byte, an entry copied from
another key and one made with another secret are all told apart from a good one. The payload is JSON.
"""

import hashlib
import hmac
import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from forge_otel.types import Artifact, GenerationResult, Reply

__all__ = ["DamagedEntry", "Entry", "seal", "unseal"]

_MAGIC = b"FGE1"
_HEADER = struct.Struct(">BQ")
_MAC_BYTES = hashlib.sha256().digest_size
_BODY_AT = len(_MAGIC) + _MAC_BYTES
_PLAIN, _ZLIB = 0, 1
# Below this size deflating costs more time than the bytes it saves are worth.
_COMPRESS_ABOVE_BYTES = 16 * 1024
_MAX_INFLATED_BYTES = 256 * 2**20


class DamagedEntry(ValueError):
    """The bytes are not an entry of this key, format and secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An answer as it was stored.

    Args:
        created_ms: wall clock, milliseconds since 1970.
        epochs: tag to the epoch that the answer was made under.
    """

    result: GenerationResult
    origin_id: str
    cost_usd: Decimal
    created_ms: int
    epochs: Mapping[str, str]


def seal(reply: Reply, *, key: str, epochs: Mapping[str, str], created_ms: int, secret: bytes) -> bytes:
    """Turn an answer into bytes that only `unseal` with the same key and secret accepts."""
    result = reply.result
    payload = orjson.dumps(
        {
            "code": result.code,
            "artifacts": {name: _pack(content) for name, content in result.artifacts.items()},
            "report_html": result.report_html,
            "metadata": result.metadata,
            "origin_id": reply.origin_id,
            "cost_usd": str(reply.cost_usd),
            "epochs": epochs,
        }
    )
    codec = _PLAIN
    if len(payload) > _COMPRESS_ABOVE_BYTES:
        codec, payload = _ZLIB, zlib.compress(payload, level=1)
    body = _HEADER.pack(codec, created_ms) + payload
    return b"".join((_MAGIC, _mac(key, body, secret), body))


def unseal(blob: bytes, *, key: str, secret: bytes) -> Entry:
    """Read what `seal` wrote.

    Raises:
        DamagedEntry: anything about the bytes is not as it was written.
    """
    body = blob[_BODY_AT:]
    if not blob.startswith(_MAGIC) or len(body) < _HEADER.size:
        raise DamagedEntry("not an entry of this format")
    if not hmac.compare_digest(blob[len(_MAGIC) : _BODY_AT], _mac(key, body, secret)):
        raise DamagedEntry("the MAC does not fit")
    codec, created_ms = _HEADER.unpack_from(body)
    try:
        return _read(_inflate(codec, body[_HEADER.size :]), created_ms)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, zlib.error) as exc:
        raise DamagedEntry("the payload cannot be read") from exc


def _mac(key: str, body: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, b"%b\0%b" % (key.encode(), body), "sha256")


def _inflate(codec: int, payload: bytes) -> bytes:
    if codec == _PLAIN:
        return payload
    if codec != _ZLIB:
        raise DamagedEntry(f"unknown codec {codec}")
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(payload, _MAX_INFLATED_BYTES)
    if not inflater.eof:
        raise DamagedEntry("the payload is cut short or too large")
    return inflated


def _read(payload: bytes, created_ms: int) -> Entry:
    data: dict[str, Any] = orjson.loads(payload)
    cost_usd = Decimal(data["cost_usd"])
    if not cost_usd.is_finite() or cost_usd < 0:
        raise DamagedEntry("the cost is none")
    result = GenerationResult(
        code=data["code"],
        artifacts={name: _unpack(content) for name, content in data["artifacts"].items()},
        report_html=data["report_html"],
        metadata=data["metadata"],
    )
    return Entry(
        result=result,
        origin_id=data["origin_id"],
        cost_usd=cost_usd,
        created_ms=created_ms,
        epochs=data["epochs"],
    )


def _pack(content: Artifact) -> str | dict[str, str]:
    return content if isinstance(content, str) else {"b64": b64encode(content).decode()}


def _unpack(content: Any) -> Artifact:
    return content if isinstance(content, str) else b64decode(content["b64"], validate=True)
