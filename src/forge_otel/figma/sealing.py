"""What is kept of Figma looks like this on the wire: framed, authenticated, bound to its key, never pickled.

::

    magic "FGF1" · MAC (32 bytes) · codec (1 byte) · payload

The MAC is HMAC-SHA256 over the key that the bytes are stored under and everything after the MAC.
"""

import hashlib
import hmac
import zlib

__all__ = ["Damaged", "seal", "unseal"]

_MAGIC = b"FGF1"
_BODY_AT = len(_MAGIC) + hashlib.sha256().digest_size
_PLAIN, _ZLIB = b"\0", b"\1"
# Designs are repetitive JSON, which deflates to a tenth; below this size it is not worth the time.
_COMPRESS_ABOVE_BYTES = 4 * 1024
MAX_PAYLOAD_BYTES = 256 * 2**20


class Damaged(ValueError):
    """The bytes are not what was stored under this key with this secret."""


def seal(payload: bytes, *, key: str, secret: bytes) -> bytes:
    """Turn `payload` into bytes that only `unseal` with the same key and secret accepts."""
    body = _PLAIN + payload
    if len(payload) > _COMPRESS_ABOVE_BYTES:
        body = _ZLIB + zlib.compress(payload, level=1)
    return b"".join((_MAGIC, _mac(key, body, secret), body))


def unseal(blob: bytes, *, key: str, secret: bytes) -> bytes:
    """Read what `seal` wrote.

    Raises:
        Damaged: anything about the bytes is not as it was written.
    """
    body = blob[_BODY_AT:]
    if not blob.startswith(_MAGIC) or not hmac.compare_digest(blob[len(_MAGIC) : _BODY_AT], _mac(key, body, secret)):
        raise Damaged("not what was stored under this key")
    codec, payload = body[:1], body[1:]
    if codec == _PLAIN:
        return payload
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(payload, MAX_PAYLOAD_BYTES)
    except zlib.error as exc:
        raise Damaged("the payload cannot be inflated") from exc
    if codec != _ZLIB or not inflater.eof:
        raise Damaged("the payload is cut short, too large, or of an unknown codec")
    return inflated


def _mac(key: str, body: bytes, secret: bytes) -> bytes:
    # The word keeps these entries apart from those of other layers under the same secret.
    mac = hmac.new(secret, b"figma\0" + key.encode() + b"\0", hashlib.sha256)
    mac.update(body)
    return mac.digest()
