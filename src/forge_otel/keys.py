"""Canonical JSON, digests, cache keys and ids.

The canonical form is RFC 8785 (JCS) with two additions: every string is brought to Unicode NFC, and design values that
are spelt in several ways get one spelling (``#FFF`` = ``#ffffff``). So equal meaning gives equal bytes: key order,
``1`` and ``1.0``, composed and decomposed letters do not matter. What JSON cannot say (NaN, infinities, integers that a
double cannot hold, keys that are not strings) is refused.
"""

import hashlib
import math
import os
import re
import time
import unicodedata
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID

import orjson

from forge_otel.errors import BadRequest
from forge_otel.types import GenerationRequest

__all__ = ["artifact_key", "canonical", "digest", "generation_key", "new_id"]

KEY_VERSION = "forge:key:v1"
"""Part of every key; it changes whenever the canonical form does."""

_MAX_DEPTH = 64
_MAX_SAFE_INTEGER = 2**53 - 1
_HEX_COLOR = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})", re.ASCII)
_ARTIFACT_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)
_REPORT = "quality-report.html"


def canonical(value: Any) -> bytes:
    """Serialise a JSON-like value so that equal meanings give equal bytes.

    Args:
        value: None, bool, int, float, str, mappings with string keys, lists, tuples and sets of these.

    Returns:
        UTF-8 JSON after RFC 8785.

    Raises:
        BadRequest: the value holds something that JSON cannot say, or is nested deeper than 64 levels.
    """
    parts: list[str] = []
    _write(value, parts, depth=0)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError as exc:
        raise BadRequest("a string holds half of a surrogate pair; send valid Unicode") from exc


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical form, as 64 lower-case hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def generation_key(request: GenerationRequest, *, pipeline: str, version: str) -> str:
    """Return the key under which an answer to `request` may be kept: 64 lower-case hex digits.

    Args:
        request: everything in it that decides the answer is part of the key; who asks is not, but the tenant is.
        pipeline: the name of the pipeline.
        version: the pipeline's version; a new one makes every old answer unreachable.

    Raises:
        BadRequest: tokens or requirements hold something that JSON cannot say.
    """
    return digest(
        [
            KEY_VERSION,
            {
                "component_type": request.component_type,
                "content_hash": request.content_hash,
                "figma_key": request.figma_key,
                "pattern_id": request.pattern_id,
                "pipeline": pipeline,
                "pipeline_version": version,
                "requirements": request.requirements,
                "screenshot_hash": request.screenshot_hash,
                "tenant": request.tenant,
                "tokens": request.tokens,
            },
        ]
    )


def artifact_key(component_id: str, name: str) -> str:
    """Return where an artifact lies in every archive, as a relative path with forward slashes.

    Raises:
        BadRequest: the name is not 1 to 128 letters, digits, ``.``, ``_`` and ``-``.
    """
    if not _ARTIFACT_NAME.fullmatch(name):
        raise BadRequest(f"the artifact name {name[:64]!r} may hold only letters, digits, '.', '_' and '-'")
    room = "reports" if name == _REPORT else "components"
    return f"{room}/{component_id}/{name}"


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562 §5.7): ids made later sort later, to the millisecond."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


def _write(value: Any, parts: list[str], *, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BadRequest(f"the value is nested deeper than {_MAX_DEPTH} levels")
    if value is None or value is True or value is False:
        parts.append("null" if value is None else "true" if value else "false")
    elif isinstance(value, str):
        parts.append(_string(value))
    elif isinstance(value, int | float):
        parts.append(_number(value))
    elif isinstance(value, Mapping):
        _write_mapping(value, parts, depth=depth)
    elif isinstance(value, AbstractSet):
        members = sorted(canonical(member).decode() for member in value)
        parts.append(f"[{','.join(members)}]")
    elif isinstance(value, list | tuple):
        _write_sequence(value, parts, depth=depth)
    else:
        raise BadRequest(f"a value of type {type(value).__name__} cannot be part of a key; send plain JSON")


def _write_mapping(value: Mapping[Any, Any], parts: list[str], *, depth: int) -> None:
    members: dict[str, Any] = {}
    for key, member in value.items():
        if not isinstance(key, str):
            raise BadRequest(f"the key {key!r} is not a string; JSON objects have string keys")
        members[unicodedata.normalize("NFC", key)] = member
    if len(members) != len(value):
        raise BadRequest("two keys of one object are the same letters in different Unicode forms")
    parts.append("{")
    # RFC 8785 §3.2.3 sorts by UTF-16 code units; for characters outside the BMP that differs from code points.
    for index, key in enumerate(sorted(members, key=_utf16)):
        parts.append(f"{',' if index else ''}{_quote(key)}:")
        _write(members[key], parts, depth=depth + 1)
    parts.append("}")


def _write_sequence(value: list[Any] | tuple[Any, ...], parts: list[str], *, depth: int) -> None:
    parts.append("[")
    for index, member in enumerate(value):
        if index:
            parts.append(",")
        _write(member, parts, depth=depth + 1)
    parts.append("]")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _string(value: str) -> str:
    if value.startswith("#") and _HEX_COLOR.fullmatch(value):
        value = value.lower()
        if len(value) <= len("#rgba"):
            value = "#" + "".join(digit * 2 for digit in value[1:])
    return _quote(unicodedata.normalize("NFC", value))


def _quote(value: str) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as exc:
        raise BadRequest("a string holds half of a surrogate pair; send valid Unicode") from exc


def _number(value: float) -> str:
    if isinstance(value, int):
        if abs(value) > _MAX_SAFE_INTEGER:
            raise BadRequest("an integer is larger than 2^53 - 1; send it as a string")
        return str(value)
    if not math.isfinite(value):
        raise BadRequest("NaN and infinities are not JSON; leave the value out or send null")
    if value == int(value) and abs(value) <= _MAX_SAFE_INTEGER:
        return str(int(value))
    return _ecmascript(value)


def _ecmascript(value: float) -> str:
    """Format a double as ECMAScript does (RFC 8785 §3.2.2.3), from Python's shortest digits."""
    sign = "-" if value < 0 else ""
    mantissa, _, exponent_text = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # The decimal point stands `point` digits after the first significant one.
    point = len(whole) + int(exponent_text or 0) - (len(whole + fraction) - len((whole + fraction).lstrip("0")))
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        body = digits.ljust(point, "0") if len(digits) <= point else f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        body = f"0.{'0' * -point}{digits}"
    else:
        head = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
        body = f"{head}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + body
