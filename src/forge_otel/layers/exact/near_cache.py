"""L1's hits that need no question to the store: what was opened and verified once, as long as nothing of it changed.

An entry is authenticated and read when it comes from the store; from then on what was read is kept in its place. A near
hit compares the same epochs as any hit. Whatever is no hit here is looked up in the store, so that this never makes a
miss, and never the reason of one.
"""

from collections.abc import Sequence
from sys import getsizeof
from typing import Any, Final

import orjson

from forge_otel.layers.exact.entry import CacheEntry
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import GenerationResult
from forge_otel.types.capabilities import SupportsNearReads

__all__ = ["NearHitCache"]

_HIT: Final = {Attr.CACHE_RESULT: "hit"}
_SAVED: Final = {Attr.CACHE_LAYER: "L1"}
_MISS: Final = {Attr.CACHE_RESULT: "miss"}
# Entry, result, and what holds them together.
_OBJECTS_BYTES: Final = 1024


class _Opened:
    """An entry as it is kept: nobody gets its own mappings, so that nobody can change what others will get."""

    __slots__ = ("entry", "epochs", "metadata", "stored_bytes")

    def __init__(self, entry: CacheEntry, epochs: Sequence[Any], stored_bytes: int) -> None:
        self.entry = entry
        self.epochs = epochs
        self.stored_bytes = stored_bytes
        self.metadata = orjson.dumps(entry.result.metadata) if entry.result.metadata else None

    @property
    def size_bytes(self) -> int:
        result = self.entry.result
        texts = (result.code, result.report_html or "", self.metadata or b"", *result.artifacts.values())
        return sum(map(getsizeof, texts)) + _OBJECTS_BYTES

    def copy(self) -> CacheEntry:
        entry, result = self.entry, self.entry.result
        # Spelt out, because dataclasses.replace takes as long as all the rest.
        return CacheEntry(
            result=GenerationResult(
                code=result.code,
                artifacts=dict(result.artifacts),
                report_html=result.report_html,
                metadata={} if self.metadata is None else orjson.loads(self.metadata),
            ),
            origin_id=entry.origin_id,
            cost_usd=entry.cost_usd,
            created_ms=entry.created_ms,
            epochs=entry.epochs,
        )


class NearHitCache:
    """Looks up entries near by.

    Args:
        near: where they are kept.
        instruments: where near hits and misses are counted.
    """

    def __init__(self, near: SupportsNearReads, *, instruments: Instruments) -> None:
        self._near = near
        self._instruments = instruments

    def find(self, keys: Sequence[str]) -> CacheEntry | None:
        """Return the entry under the first of `keys`, if it was made under the epochs that are under the others."""
        found = self._near.peek(keys)
        kept = None if found is None else found[0]
        if found is None or not isinstance(kept, _Opened) or kept.epochs != found[1:]:
            self._instruments.add_later(Metric.CACHE_NEAR_REQUESTS, 1, _MISS)
            return None
        self._instruments.add_later(Metric.CACHE_NEAR_REQUESTS, 1, _HIT)
        self._instruments.add_later(Metric.CACHE_BYTES_SAVED, kept.stored_bytes, _SAVED)
        return kept.copy()

    def keep(self, key: str, blob: bytes, entry: CacheEntry, epochs: Sequence[Any]) -> None:
        """Keep a hit from the store, which was verified and is valid under `epochs`."""
        opened = _Opened(entry, epochs, len(blob))
        self._near.replace(key, blob, opened, opened.size_bytes)
