"""Canonical JSON, digests, cache keys and ids.

The canonical form is RFC 8785 (JCS) with strings normalised to Unicode NFC. Key order, `1` and `1.0`, composed and
decomposed letters therefore make no difference. In design tokens, and nowhere else, values with several spellings get
one of them (`#FFF` = `#ffffff` = `rgb(255, 255, 255)`, `1.0REM` = `1rem`). Values without a JSON form (NaN, infinities,
integers that a double cannot hold, keys that are not strings) are rejected.

Time and memory are linear in the size of the value, whatever its shape. `docs/keys.md` is the published specification,
with test vectors.
"""

import asyncio
import functools
import gc
import hashlib
import marshal
import re
import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any, Final

import orjson

from forge_otel._internal.canonical_json import CanonicalWriter, quoted_text
from forge_otel.errors import BadRequest
from forge_otel.types import Call, DigestMemo, GenerationRequest

__all__ = [
    "KEY_VERSION",
    "artifact_key",
    "canonical",
    "digest",
    "generation_key",
    "generation_key_off_loop",
    "is_large",
    "requirements_digest_of",
    "tokens_digest",
    "tokens_digest_of",
]

KEY_VERSION: Final = "forge:key:v3"
"""Part of every key; a change of the canonical form needs a new version."""

_HEX_COLOR: Final = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})", re.ASCII)
_CHANNEL: Final = r"\s*([0-9]{1,3})\s*"
# Opaque colours only: an alpha of 0.5 is not a multiple of 1/255, so it has no equal hex spelling.
_RGB_COLOR: Final = re.compile(
    rf"rgba?\({_CHANNEL},{_CHANNEL},{_CHANNEL}(?:,\s*1(?:\.0+)?\s*)?\)", re.ASCII | re.IGNORECASE
)
_UNITS: Final = "px|rem|em|vw|vh|vmin|vmax|ch|ex|pt|pc|cm|mm|in|deg|rad|turn|ms|s|fr"
_DIMENSION: Final = re.compile(rf"([+-]?)([0-9]{{0,32}})(?:\.([0-9]{{1,32}}))?({_UNITS})", re.ASCII | re.IGNORECASE)
_ARTIFACT_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)
_REPORT: Final = "quality-report.html"


_STRICT: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
# Small values are hashed faster than looked up; a very large one would evict all others.
_MEMO_ABOVE_BYTES, _MEMO_BELOW_BYTES = 1024, 2**20
_MEMO_BYTES: Final = 8 * 2**20
# Hashing about this much JSON blocks the event loop for 10 ms.
_LARGE_BYTES: Final = 100_000
_MEMBER_BYTES: Final = 16
_PLAIN_TYPES: Final = frozenset({dict, list, tuple, set, frozenset, str, int, float, bool, type(None)})


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


_text_digests, _token_digests = _Digests(_MEMO_BYTES), _Digests(_MEMO_BYTES)


def canonical(value: Any) -> bytes:
    """Serialise a JSON-like value canonically: equal values give equal bytes.

    Args:
        value: None, bool, int, float, str, UUIDs, mappings with string keys, lists, tuples and sets of these. A member
            of an enumeration has the form of its value.

    Returns:
        UTF-8 JSON after RFC 8785.

    Raises:
        BadRequest: the value has no JSON form, is nested deeper than 1024 levels, or has more than a million members
            or 32 million characters.
    """
    return CanonicalWriter(quoted_text).bytes_of(value)


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical form, as 64 lower-case hex digits.

    Raises:
        BadRequest: as `canonical`.
    """
    return _memoised(value, _text_digests, quoted_text)


def tokens_digest(tokens: Mapping[str, Any]) -> str:
    """Return the digest of a token set, in which equal design values have one spelling.

    Raises:
        BadRequest: as `canonical`.
    """
    return _memoised(tokens, _token_digests, _quoted_design_value)


def tokens_digest_of(call: Call) -> str:
    """Return the digest of the design tokens of `call`, which is computed once.

    Raises:
        BadRequest: as `canonical`.
    """
    return _tokens_digest(call.request, call.digests)


def requirements_digest_of(call: Call) -> str:
    """Return the digest of the requirements of `call`, which is computed once.

    Raises:
        BadRequest: as `canonical`.
    """
    return _requirements_digest(call.request, call.digests)


def generation_key(
    request: GenerationRequest, *, pipeline: str, version: str, digests: DigestMemo | None = None
) -> str:
    """Return the cache key of a request: 64 lower-case hex digits.

    Args:
        request: all fields that determine the answer are part of the key, and the tenant; user and session are not.
        pipeline: name of the pipeline.
        version: version of the pipeline; a new version invalidates every earlier answer.
        digests: receives the digests of tokens and requirements, for the `Call` of the request.

    Raises:
        BadRequest: tokens or requirements have no JSON form, or are too large.
    """
    digests = DigestMemo() if digests is None else digests
    for part, form, quote in (
        (request.tokens, "tokens", _quoted_design_value),
        (request.requirements, "text", quoted_text),
    ):
        # The fast serialisation has no limit of its own, and holds the interpreter's lock.
        if is_large(part, above_bytes=_MEMO_BELOW_BYTES):
            digests.keep(part, form, _sha256(part, quote))
    return _generation_key(request, digests, pipeline=pipeline, version=version)


async def generation_key_off_loop(
    request: GenerationRequest, *, pipeline: str, version: str, digests: DigestMemo | None = None
) -> str:
    """Return the cache key as `generation_key` does; a large request is hashed in a thread.

    Raises:
        BadRequest: as `generation_key`.
    """
    digests = DigestMemo() if digests is None else digests
    if is_large(request.tokens, request.requirements):
        return await asyncio.to_thread(generation_key, request, pipeline=pipeline, version=version, digests=digests)
    return _generation_key(request, digests, pipeline=pipeline, version=version)


def is_large(*values: Any, above_bytes: int = _LARGE_BYTES) -> bool:
    """Return whether the values have more than about 100 kB of JSON, so that their digest belongs in a thread.

    Args:
        values: JSON-like values.
        above_bytes: estimated size of the JSON above which a value is large.
    """
    left, level = above_bytes, list(values)
    while level:
        if not set(map(type, level)) <= _PLAIN_TYPES:
            return _is_large(level, left)
        left -= _MEMBER_BYTES * len(level)
        # Bounds the work below: shared members are listed once for each place where they are used.
        if left < 0:
            return True
        try:
            names = "".join(chain.from_iterable([value for value in level if type(value) is dict]))
        except TypeError:
            # Some key is not a string, which is reported by the digest.
            return True
        left -= len(names) + len("".join([value for value in level if type(value) is str]))
        # All members of a level at once: a loop in Python would take twice as long.
        level = gc.get_referents(*level)
    return left < 0


def _is_large(values: list[Any], left: int) -> bool:
    """Do the same for values of other types."""
    pending = values
    while pending and left >= 0:
        value = pending.pop()
        left -= _MEMBER_BYTES
        if isinstance(value, str):
            left -= len(value)
        elif isinstance(value, Mapping | list | tuple | AbstractSet):
            left -= _MEMBER_BYTES * len(value)
            if left >= 0:
                pending.extend(value)
                pending.extend(value.values() if isinstance(value, Mapping) else ())
    return left < 0


def artifact_key(component_id: str, name: str) -> str:
    """Return the path of an artifact in an archive, relative and with forward slashes.

    Raises:
        BadRequest: the name is not 1 to 128 letters, digits, `.`, `_` and `-`.
    """
    if not _ARTIFACT_NAME.fullmatch(name):
        raise BadRequest(f"the artifact name {name[:64]!r} may hold only letters, digits, '.', '_' and '-'")
    folder = "reports" if name == _REPORT else "components"
    return f"{folder}/{component_id}/{name}"


def _generation_key(request: GenerationRequest, digests: DigestMemo, *, pipeline: str, version: str) -> str:
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
                "requirements": _requirements_digest(request, digests),
                "screenshot_hash": request.screenshot_hash,
                "tenant": request.tenant,
                "tokens": _tokens_digest(request, digests),
            },
        ]
    )


def _tokens_digest(request: GenerationRequest, digests: DigestMemo) -> str:
    tokens = request.tokens
    return digests.get(tokens, "tokens") or digests.keep(tokens, "tokens", tokens_digest(tokens))


def _requirements_digest(request: GenerationRequest, digests: DigestMemo) -> str:
    requirements = request.requirements
    return digests.get(requirements, "text") or digests.keep(requirements, "text", digest(requirements))


def _memoised(value: Any, memo: _Digests, quote: Callable[[str], str]) -> str:
    image = _image(value)
    # A value without a fast serialisation has an empty image, which is below the lower limit.
    if not _MEMO_ABOVE_BYTES < len(image) < _MEMO_BELOW_BYTES:
        return _sha256(value, quote)
    return memo.get(image) or memo.keep(image, _sha256(value, quote))


def _sha256(value: Any, quote: Callable[[str], str]) -> str:
    return hashlib.sha256(CanonicalWriter(quote).bytes_of(value)).hexdigest()


def _image(value: Any) -> bytes:
    """Return a fast serialisation that no different value has; empty if the value has none."""
    try:
        image = orjson.dumps(value, option=_STRICT)
        # orjson writes NaN as null too; marshal distinguishes them but takes longer.
        return b"\0" + marshal.dumps(value, 2) if b"null" in image else image
    except (ValueError, TypeError):
        # A subclass of dict or str, for example, or a value that `canonical` will reject.
        return b""


@functools.lru_cache(maxsize=4096)
def _quoted_design_value(value: str) -> str:
    """Quote a short string of a token set; a design value gets its canonical spelling."""
    first = value[:1]
    if first in "#rR":
        value = _color(value) or value
    elif first in "+-.0123456789":
        value = _dimension(value) or value
    return quoted_text(value)


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
