"""Sealed frames: bytes that are authenticated, bound to the key they are stored under, compressed, and never pickled.

::

    magic (4 bytes) · MAC (32 bytes) · codec (1 byte) · header (fixed size, may be empty) · payload

The MAC is HMAC-SHA256 over the domain, the key and everything after the MAC. A flipped byte, a frame that was copied
from another key, and one that was made with another secret all fail the check.
"""

import hashlib
import hmac
import zlib
from dataclasses import dataclass
from typing import Final

__all__ = ["DamagedFrame", "FrameFormat"]

_MAC_BYTES: Final = hashlib.sha256().digest_size
_PLAIN: Final = b"\0"
_ZLIB: Final = b"\1"


class DamagedFrame(ValueError):
    """The bytes are no frame of this format, key and secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFormat:
    """The format of one kind of frame.

    Args:
        magic: the first bytes; they name the kind and its version.
        domain: separates the MACs of two kinds that share a secret.
        header_bytes: size of the header, which is authenticated and not compressed.
        compress_above_bytes: larger payloads are deflated; below this size it costs more time than the bytes are worth.
        max_payload_bytes: a payload that inflates to more is damaged, so that a small frame cannot fill the memory.
    """

    magic: bytes
    domain: bytes = b""
    header_bytes: int = 0
    compress_above_bytes: int
    max_payload_bytes: int = 256 * 2**20

    def seal(self, payload: bytes, *, key: str, secret: bytes, header: bytes = b"") -> bytes:
        """Return the frame of `payload`, which only `unseal` with the same key and secret accepts."""
        codec = _PLAIN
        if len(payload) > self.compress_above_bytes:
            codec, payload = _ZLIB, zlib.compress(payload, level=1)
        body = b"".join((codec, header, payload))
        return b"".join((self.magic, self._mac(key, body, secret), body))

    def unseal(self, frame: bytes, *, key: str, secret: bytes) -> tuple[bytes, bytes]:
        """Return the header and the payload of a frame.

        Raises:
            DamagedFrame: the frame is not as it was written.
        """
        body_at = len(self.magic) + _MAC_BYTES
        body = frame[body_at:]
        if not frame.startswith(self.magic) or len(body) <= self.header_bytes:
            raise DamagedFrame("not a frame of this format")
        if not hmac.compare_digest(frame[len(self.magic) : body_at], self._mac(key, body, secret)):
            raise DamagedFrame("the MAC does not match")
        payload_at = 1 + self.header_bytes
        return body[1:payload_at], self._inflate(body[:1], body[payload_at:])

    def _mac(self, key: str, body: bytes, secret: bytes) -> bytes:
        return hmac.digest(secret, b"%b%b\0%b" % (self.domain, key.encode(), body), "sha256")

    def _inflate(self, codec: bytes, payload: bytes) -> bytes:
        if codec == _PLAIN:
            return payload
        if codec != _ZLIB:
            raise DamagedFrame(f"unknown codec {codec!r}")
        inflater = zlib.decompressobj()
        try:
            inflated = inflater.decompress(payload, self.max_payload_bytes)
        except zlib.error as exc:
            raise DamagedFrame("the payload cannot be inflated") from exc
        if not inflater.eof:
            raise DamagedFrame("the payload is cut short or too large")
        return inflated
