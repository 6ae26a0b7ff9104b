"""Ids that sort by the time they were made."""

import os
import time
from uuid import UUID

__all__ = ["new_id"]


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562, section 5.7); ids sort by creation time, to the millisecond."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))
