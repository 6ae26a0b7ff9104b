"""Canonical JSON, digests, cache keys and ids.

The canonical form is RFC 8785 (JCS) with two additions: strings are normalised to Unicode NFC, and design values with
several spellings get one of them (`#FFF` = `#ffffff` = `rgb(255, 255, 255)`, `1.0REM` = `1rem`). Key order, `1` and
`1.0`, composed and decomposed letters therefore make no difference. Values without a JSON form (NaN, infinities,
integers that a double cannot hold, keys that are not strings) are rejected.

`docs/keys.md` is the published specification, with test vectors.
"""

import functools
import hashlib
import marshal
import math
import re
import threading
import unicodedata
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import orjson

from forge_otel.errors import BadRequest
from forge_otel.types import GenerationRequest

__all__ = ["artifact_key", "canonical", "digest", "generation_key"]

KEY_VERSION: Final = "forge:key:v2"
"""Part of every key; a change of the canonical form needs a new version."""

# Deeper values would exhaust the stack of the recursive writer.
_MAX_DEPTH: Final = 64
_MAX_SAFE_INTEGER: Final = 2**53 - 1
_HEX_COLOR: Final = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})", re.ASCII)
_CHANNEL: Final = r"\s*([0-9]{1,3})\s*"
# Opaque colours only: an alpha of 0.5 is not a multiple of 1/255, so it has no equal hex spelling.
_RGB_COLOR: Final = re.compile(
    rf"rgba?\({_CHANNEL},{_CHANNEL},{_CHANNEL}(?:,\s*1(?:\.0+)?\s*)?\)", re.ASCII | re.IGNORECASE
)
_UNITS: Final = "px|rem|em|vw|vh|vmin|vmax|ch|ex|pt|pc|cm|mm|in|deg|rad|turn|ms|s|fr"
_DIMENSION: Final = re.compile(rf"([+-]?)([0-9]{{0,32}})(?:\.([0-9]{{1,32}}))?({_UNITS})", re.ASCII | re.IGNORECASE)
# No design value is longer; longer strings skip the patterns.
_MAX_DESIGN_CHARS: Final = 80
_ARTIFACT_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)
_REPORT: Final = "quality-report.html"


_STRICT: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
# Small values are hashed faster than looked up; a very large one would evict all others.
_MEMO_ABOVE_BYTES, _MEMO_BELOW_BYTES = 1024, 2**20
_MEMO_BYTES: Final = 8 * 2**20


class _Digests:
    """Memo of digests of large values, keyed by a fast serialisation and bounded in bytes.

    Equal serialisations imply equal values. One value may have several, for example with its keys in another order,
    which costs time only.
    """

    # Keyed by content, because token sets are mutable mappings; requests repeat the same large token set all day.

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._digests: dict[bytes, str] = {}
        self._lock = threading.Lock()

    def get(self, image: bytes) -> str | None:
        return self._digests.get(image)

    def keep(self, image: bytes, found: str) -> str:
        with self._lock:
            if image not in self._digests:
                self._digests[image] = found
                self._size_bytes += len(image)
            while self._size_bytes > self._max_bytes:
                oldest = next(iter(self._digests))
                del self._digests[oldest]
                self._size_bytes -= len(oldest)
        return found


_digests = _Digests(_MEMO_BYTES)


def canonical(value: Any) -> bytes:
    """Serialise a JSON-like value canonically: equal values give equal bytes.

    Args:
        value: None, bool, int, float, str, mappings with string keys, lists, tuples and sets of these.

    Returns:
        UTF-8 JSON after RFC 8785.

    Raises:
        BadRequest: the value has no JSON form, or is nested deeper than 64 levels.
    """
    parts: list[str] = []
    _write(value, parts, depth=0)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError as exc:
        raise BadRequest("a string holds a lone surrogate; send valid Unicode") from exc


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical form, as 64 lower-case hex digits.

    Raises:
        BadRequest: as `canonical`.
    """
    image = _image(value)
    # A value without a fast serialisation has an empty image, which is below the lower limit.
    if not _MEMO_ABOVE_BYTES < len(image) < _MEMO_BELOW_BYTES:
        return hashlib.sha256(canonical(value)).hexdigest()
    return _digests.get(image) or _digests.keep(image, hashlib.sha256(canonical(value)).hexdigest())


def _image(value: Any) -> bytes:
    """Return a fast serialisation that no different value has; empty if the value has none."""
    try:
        image = orjson.dumps(value, option=_STRICT)
        # orjson writes NaN as null too; marshal distinguishes them but takes longer.
        return b"\0" + marshal.dumps(value, 2) if b"null" in image else image
    except (ValueError, TypeError):
        # A subclass of dict or str, for example, or a value that `canonical` will reject.
        return b""


def generation_key(request: GenerationRequest, *, pipeline: str, version: str) -> str:
    """Return the cache key of a request: 64 lower-case hex digits.

    Args:
        request: all fields that determine the answer are part of the key, and the tenant; user and session are not.
        pipeline: name of the pipeline.
        version: version of the pipeline; a new version invalidates every earlier answer.

    Raises:
        BadRequest: tokens or requirements have no JSON form.
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
                "requirements": digest(request.requirements),
                "screenshot_hash": request.screenshot_hash,
                "tenant": request.tenant,
                "tokens": digest(request.tokens),
            },
        ]
    )


def artifact_key(component_id: str, name: str) -> str:
    """Return the path of an artifact in an archive, relative and with forward slashes.

    Raises:
        BadRequest: the name is not 1 to 128 letters, digits, `.`, `_` and `-`.
    """
    if not _ARTIFACT_NAME.fullmatch(name):
        raise BadRequest(f"the artifact name {name[:64]!r} may hold only letters, digits, '.', '_' and '-'")
    folder = "reports" if name == _REPORT else "components"
    return f"{folder}/{component_id}/{name}"


def _write(value: Any, parts: list[str], *, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BadRequest(f"the value is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        parts.append(_short_string(value) if len(value) <= _MAX_DESIGN_CHARS else _quote(_nfc(value)))
    elif isinstance(value, dict):
        _write_mapping(value, parts, depth=depth)
    elif value is None or value is True or value is False:
        parts.append("null" if value is None else "true" if value else "false")
    elif isinstance(value, int | float):
        parts.append(_number(value))
    elif isinstance(value, Mapping):
        _write_mapping(value, parts, depth=depth)
    elif isinstance(value, list | tuple):
        _write_sequence(value, parts, depth=depth)
    elif isinstance(value, AbstractSet):
        # Members with equal canonical forms, such as 1 and 1.0, are one member.
        members = sorted({canonical(member).decode() for member in value})
        parts.append(f"[{','.join(members)}]")
    else:
        raise BadRequest(f"a value of type {type(value).__name__} cannot be part of a key; send plain JSON")


def _write_mapping(value: Mapping[Any, Any], parts: list[str], *, depth: int) -> None:
    members: dict[str, Any] = {}
    is_ascii = True
    for key, member in value.items():
        if not isinstance(key, str):
            raise BadRequest(f"the key {key!r} is not a string; JSON objects have string keys")
        if not key.isascii():
            is_ascii, key = False, _nfc(key)  # noqa: PLW2901
        members[key] = member
    if len(members) != len(value):
        raise BadRequest("two keys of one object are equal after Unicode normalisation (NFC); rename one")
    before = "{"
    # RFC 8785 §3.2.3 sorts by UTF-16 code units; for characters outside the BMP that differs from code points.
    for key in sorted(members) if is_ascii else sorted(members, key=_utf16):
        parts.append(before + _quote(key) + ":")
        _write(members[key], parts, depth=depth + 1)
        before = ","
    parts.append("}" if members else "{}")


def _write_sequence(value: list[Any] | tuple[Any, ...], parts: list[str], *, depth: int) -> None:
    parts.append("[")
    for index, member in enumerate(value):
        if index:
            parts.append(",")
        _write(member, parts, depth=depth + 1)
    parts.append("]")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


@functools.lru_cache(maxsize=4096)
def _short_string(value: str) -> str:
    """Quote a short string; a design value gets its canonical spelling."""
    first = value[:1]
    if first in "#rR":
        value = _color(value) or value
    elif first in "+-.0123456789":
        value = _dimension(value) or value
    return _quote(_nfc(value))


def _color(value: str) -> str | None:
    if value.startswith("#") and _HEX_COLOR.fullmatch(value):
        value = value.lower()
        return value if len(value) > len("#rgba") else "#" + "".join(digit * 2 for digit in value[1:])
    found = _RGB_COLOR.fullmatch(value)
    if found is None or any(int(channel) > 255 for channel in found.groups()):
        return None
    return "#" + "".join(f"{int(channel):02x}" for channel in found.groups())


def _dimension(value: str) -> str | None:
    """Return a CSS dimension in lower case without redundant zeros and plus sign; None for any other string."""
    # `16 px` with a space is not a CSS dimension, so an answer to it may differ from one to `16px`.
    found = _DIMENSION.fullmatch(value)
    if found is None or not (found[2] or found[3]):
        return None
    sign, whole, fraction = found[1].replace("+", ""), found[2].lstrip("0") or "0", (found[3] or "").rstrip("0")
    if not fraction and whole == "0":
        sign = ""
    return f"{sign}{whole}{'.' if fraction else ''}{fraction}{found[4].lower()}"


def _nfc(value: str) -> str:
    return value if value.isascii() else unicodedata.normalize("NFC", value)


def _quote(value: str) -> str:
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return f'"{value}"'
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as exc:
        raise BadRequest("a string holds a lone surrogate; send valid Unicode") from exc


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
    # The decimal point follows `point` digits, counted from the first significant one.
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
