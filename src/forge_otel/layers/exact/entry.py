"""The wire format of a cache entry: a sealed frame (`forge_otel._internal.frames`) around JSON.

The header of the frame is the creation time in milliseconds since 1970 (8 bytes, big-endian).
"""

import struct
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import orjson

from forge_otel._internal.frames import DamagedFrame, FrameFormat
from forge_otel.types import Artifact, GenerationResult, Reply

__all__ = ["CacheEntry", "seal", "unseal"]

_CREATED: Final = struct.Struct(">Q")
_FRAMES: Final = FrameFormat(magic=b"FGE1", header_bytes=_CREATED.size, compress_above_bytes=16 * 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A cached answer with what is stored about it.

    Args:
        origin_id: id of the generation that made the answer.
        cost_usd: cost of that generation.
        created_ms: creation time, milliseconds since 1970.
        tag_versions: versions of the entry's tags when the answer was made.
    """

    result: GenerationResult
    origin_id: str
    cost_usd: Decimal
    created_ms: int
    tag_versions: Mapping[str, str]


def seal(reply: Reply, *, key: str, tag_versions: Mapping[str, str], created_ms: int, secret: bytes) -> bytes:
    """Serialise and authenticate an answer; only `unseal` with the same key and secret accepts the result."""
    result = reply.result
    payload = orjson.dumps(
        {
            "code": result.code,
            "artifacts": {name: _pack(content) for name, content in result.artifacts.items()},
            "report_html": result.report_html,
            "metadata": result.metadata,
            "origin_id": reply.origin_id,
            "cost_usd": str(reply.cost_usd),
            "epochs": tag_versions,
        }
    )
    return _FRAMES.seal(payload, key=key, secret=secret, header=_CREATED.pack(created_ms))


def unseal(blob: bytes, *, key: str, secret: bytes) -> CacheEntry:
    """Verify and decode an entry that `seal` made.

    Raises:
        DamagedFrame: the entry is damaged, forged, or sealed for another key.
    """
    header, payload = _FRAMES.unseal(blob, key=key, secret=secret)
    try:
        return _read(payload, *_CREATED.unpack(header))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as exc:
        raise DamagedFrame("the payload has another form") from exc


def _read(payload: bytes, created_ms: int) -> CacheEntry:
    data: dict[str, Any] = orjson.loads(payload)
    # Costs are strings, because a float would not be exact.
    cost_usd = Decimal(data["cost_usd"])
    if not cost_usd.is_finite() or cost_usd < 0:
        raise DamagedFrame("the cost is negative or not finite")
    result = GenerationResult(
        code=data["code"],
        artifacts={name: _unpack(content) for name, content in data["artifacts"].items()},
        report_html=data["report_html"],
        metadata=data["metadata"],
    )
    return CacheEntry(
        result=result,
        origin_id=data["origin_id"],
        cost_usd=cost_usd,
        created_ms=created_ms,
        tag_versions=data["epochs"],
    )


def _pack(content: Artifact) -> str | dict[str, str]:
    return content if isinstance(content, str) else {"b64": b64encode(content).decode()}


def _unpack(content: Any) -> Artifact:
    return content if isinstance(content, str) else b64decode(content["b64"], validate=True)
