"""How much an archive holds, and what that costs a month."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from forge_otel.sinks.archive import ArchivedObject

__all__ = ["STANDARD_USD_PER_GIB", "ArchiveUsage", "measure"]

STANDARD_USD_PER_GIB: Final = Decimal("0.023")
"""A GiB for a month in S3 Standard, us-east-1, first 50 TB (AWS price list)."""

_GIB: Final = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveUsage:
    """What is stored.

    Args:
        size_bytes: as stored, so after compression.
    """

    objects: int
    size_bytes: int

    def monthly_usd(self, usd_per_gib: Decimal = STANDARD_USD_PER_GIB) -> Decimal:
        """Return the price of keeping it for a month, requests and traffic not included."""
        return usd_per_gib * self.size_bytes / _GIB


async def measure(objects: AsyncIterator[ArchivedObject]) -> ArchiveUsage:
    """Add up what a listing gives."""
    count = size_bytes = 0
    async for found in objects:
        count += 1
        size_bytes += found.size_bytes
    return ArchiveUsage(objects=count, size_bytes=size_bytes)
