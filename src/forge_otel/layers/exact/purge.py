"""Manual invalidation of cache entries, with a count of the affected entries and an audit log line.

A purge is a single write of a new tag version. Counting is optional and costs more: it walks the store with SCAN, reads
entries in small batches and compares their tags, up to a limit.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from forge_otel._internal.frames import DamagedFrame
from forge_otel.errors import BadRequest
from forge_otel.layers.exact.entry import unseal
from forge_otel.types import Store
from forge_otel.types.capabilities import SupportsScan

__all__ = ["PURGE_BY", "Purged", "Purger"]

_audit = logging.getLogger("forge_otel.audit")

PURGE_BY: Final = ("key", "figma", "tokens", "type", "tenant", "version", "all")
"""Kinds of purge: ``tokens`` takes the digest of a token set, ``all`` takes no value."""

ENTRY_PREFIX: Final = "forge:l1:"
_MAX_VALUE_CHARS: Final = 256
_HEX: Final = re.compile("[0-9a-f]{64}")
# Entries may have megabytes; small batches bound memory and the time for which Redis is busy.
_BATCH: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """Result of a purge or dry run.

    Args:
        entries: number of affected entries; None if not counted.
        is_complete: whether the count covered the whole store; otherwise `entries` is a lower bound.
    """

    by: str
    value: str
    entries: int | None
    is_complete: bool
    is_dry_run: bool


class Purger:
    """Purges the entries of one exact cache.

    Args:
        store: holds the entries.
        invalidate: changes the version of a tag.
        guard: calls the store within its deadline and breaker.
        secret: key that authenticates the entries.
        max_scanned: entries that a count reads at most.
    """

    def __init__(
        self,
        store: Store,
        *,
        invalidate: Callable[[str], Awaitable[None]],
        guard: Callable[..., Awaitable[Any]],
        secret: bytes,
        max_scanned: int = 10_000,
    ) -> None:
        self._store = store
        self._invalidate = invalidate
        self._guard = guard
        self._secret = secret
        self._max_scanned = max_scanned

    async def purge(
        self, by: str, value: str = "", *, who: str, is_dry_run: bool = False, with_count: bool = True
    ) -> Purged:
        """Invalidate entries and write an audit log line.

        Args:
            by: one of `PURGE_BY`.
            value: the key, Figma file, token digest, component type, tenant or version.
            who: the operator, for the audit log.
            is_dry_run: count the entries without invalidating them.
            with_count: whether to count the entries of a real purge.

        Raises:
            BadRequest: `by` or `value` is invalid.
            ForgeError or the store's own error: the store is unavailable; nothing was purged.
        """
        _check(by, value)
        if by == "key":
            found = await self._key(value, is_dry_run=is_dry_run)
        else:
            tag = by if by == "all" else f"{by}:{value}"
            entries, is_complete = await self._count(tag) if with_count or is_dry_run else (None, False)
            if not is_dry_run:
                await self._invalidate(tag)
            found = Purged(by=by, value=value, entries=entries, is_complete=is_complete, is_dry_run=is_dry_run)
        _log(found, who)
        return found

    async def _key(self, key: str, *, is_dry_run: bool) -> Purged:
        name = ENTRY_PREFIX + key
        if is_dry_run:
            entries = sum(blob is not None for blob in await self._guard(self._store.get, [name]))
        else:
            entries = await self._guard(self._store.delete, [name])
        return Purged(by="key", value=key, entries=entries, is_complete=True, is_dry_run=is_dry_run)

    async def _count(self, tag: str) -> tuple[int | None, bool]:
        if not isinstance(self._store, SupportsScan):
            return None, False
        cursor, scanned, entries = "", 0, 0
        while True:
            cursor, names = await self._guard(self._store.scan, ENTRY_PREFIX, cursor)
            for start in range(0, len(names), _BATCH):
                batch = names[start : start + _BATCH]
                blobs = await self._guard(self._store.get, batch)
                entries += sum(self._has_tag(tag, name, blob) for name, blob in zip(batch, blobs, strict=True))
                scanned += len(batch)
                if scanned >= self._max_scanned:
                    return entries, False
            if not cursor:
                return entries, True

    def _has_tag(self, tag: str, name: str, blob: bytes | None) -> bool:
        # The entry expired between the scan and the read.
        if blob is None:
            return False
        try:
            return tag in unseal(blob, key=name.removeprefix(ENTRY_PREFIX), secret=self._secret).tag_versions
        except DamagedFrame:
            return False


def _check(by: str, value: str) -> None:
    if by not in PURGE_BY:
        raise BadRequest(f"entries cannot be purged by {by[:64]!r}; use one of {', '.join(PURGE_BY)}")
    if bool(value) == (by == "all"):
        raise BadRequest("'all' takes no value, everything else needs one")
    if len(value) > _MAX_VALUE_CHARS:
        raise BadRequest(f"the value is longer than {_MAX_VALUE_CHARS} characters")
    if by in {"key", "tokens"} and not _HEX.fullmatch(value):
        raise BadRequest(f"{by} takes a SHA-256: 64 lower-case hex digits")


def _log(found: Purged, who: str) -> None:
    facts = {
        "purge_by": found.by,
        "purge_value": found.value,
        "purge_entries": found.entries,
        "purge_complete": found.is_complete,
        "purge_dry_run": found.is_dry_run,
        "purge_who": who,
    }
    # repr() escapes line breaks, with which a caller could forge log lines.
    text = " ".join(f"{name.removeprefix('purge_')}={value!r}" for name, value in facts.items())
    _audit.info("cache purge: %s", text, extra=facts)
