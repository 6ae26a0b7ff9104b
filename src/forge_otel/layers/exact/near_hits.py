"""In-process hits: decoded entries are kept beside a store that mirrors Redis in this process.

An entry is verified and decoded when it arrives from the store; the decoded entry then replaces its bytes. A near hit
compares the same tag versions as any other hit. A near miss falls through to the store and is not counted as a miss.
"""

from collections.abc import Sequence
from sys import getsizeof
from typing import Any, Final

from forge_otel.layers.exact.entry import CacheEntry
from forge_otel.layers.result_copies import ResultCopies
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types.capabilities import SupportsNearReads

__all__ = ["NearHitCache"]

_HIT: Final = {Attr.CACHE_RESULT: "hit"}
_SAVED: Final = {Attr.CACHE_LAYER: "L1"}
_MISS: Final = {Attr.CACHE_RESULT: "miss"}
# Estimated size of the entry and result objects without their texts.
_OBJECTS_BYTES: Final = 1024


class _DecodedEntry:
    """A decoded entry; callers get copies, so that none can change the mappings of another."""

    __slots__ = ("copies", "entry", "stored_bytes", "tag_versions")

    def __init__(self, entry: CacheEntry, tag_versions: Sequence[Any], stored_bytes: int) -> None:
        self.entry = entry
        self.tag_versions = tag_versions
        self.stored_bytes = stored_bytes
        self.copies = ResultCopies(entry.result)

    @property
    def size_bytes(self) -> int:
        result = self.entry.result
        texts = (result.code, result.report_html or "", self.copies.metadata_json or b"", *result.artifacts.values())
        return sum(map(getsizeof, texts)) + _OBJECTS_BYTES

    def copy(self) -> CacheEntry:
        entry = self.entry
        return CacheEntry(
            result=self.copies.copy(),
            origin_id=entry.origin_id,
            cost_usd=entry.cost_usd,
            created_ms=entry.created_ms,
            tag_versions=entry.tag_versions,
        )


class NearHitCache:
    """Decoded entries in the local copy of a near store.

    Args:
        near: the store.
        instruments: receive near hits and misses.
    """

    def __init__(self, near: SupportsNearReads, *, instruments: Instruments) -> None:
        self._near = near
        self._instruments = instruments

    def find(self, keys: Sequence[str]) -> CacheEntry | None:
        """Return the entry if it is present and its tag versions are current.

        Args:
            keys: key of the entry, then the keys of its tag versions.
        """
        found = self._near.peek(keys)
        decoded = None if found is None else found[0]
        if found is None or not isinstance(decoded, _DecodedEntry) or decoded.tag_versions != found[1:]:
            self._instruments.add_later(Metric.CACHE_NEAR_REQUESTS, 1, _MISS)
            return None
        self._instruments.add_later(Metric.CACHE_NEAR_REQUESTS, 1, _HIT)
        self._instruments.add_later(Metric.CACHE_BYTES_SAVED, decoded.stored_bytes, _SAVED)
        return decoded.copy()

    def keep(self, key: str, blob: bytes, entry: CacheEntry, tag_versions: Sequence[Any]) -> None:
        """Keep a verified entry that is valid under `tag_versions`, in place of its bytes."""
        decoded = _DecodedEntry(entry, tag_versions, len(blob))
        self._near.replace(key, blob, decoded, decoded.size_bytes)
