"""The wire format of a cache entry: a sealed frame (`forge_otel._internal.frames`) around JSON.

The header of the frame is the wall clock at which the entry was made, in milliseconds since 1970 (8 bytes).
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
    return _FRAMES.seal(payload, key=key, secret=secret, header=_CREATED.pack(created_ms))


def unseal(blob: bytes, *, key: str, secret: bytes) -> CacheEntry:
    """Read what `seal` wrote.

    Raises:
        DamagedFrame: anything about the bytes is not as it was written.
    """
    header, payload = _FRAMES.unseal(blob, key=key, secret=secret)
    try:
        return _read(payload, *_CREATED.unpack(header))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as exc:
        raise DamagedFrame("the payload cannot be read") from exc


def _read(payload: bytes, created_ms: int) -> CacheEntry:
    data: dict[str, Any] = orjson.loads(payload)
    cost_usd = Decimal(data["cost_usd"])
    if not cost_usd.is_finite() or cost_usd < 0:
        raise DamagedFrame("the cost is none")
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
        epochs=data["epochs"],
    )


def _pack(content: Artifact) -> str | dict[str, str]:
    return content if isinstance(content, str) else {"b64": b64encode(content).decode()}


def _unpack(content: Any) -> Artifact:
    return content if isinstance(content, str) else b64decode(content["b64"], validate=True)
