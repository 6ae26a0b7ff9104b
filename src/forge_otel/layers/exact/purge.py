"""Invalidation by hand: what is purged, how much that is, and a line in the log about it.

A purge itself is one write, whatever it meets: the tag's epoch changes. *Counting* is not: it walks through the store
with SCAN, reads entries in small batches and looks which tags they were made under, up to a limit. It is done for a dry
run and for the audit line, and can be left out.
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
"""What can be purged by: ``tokens`` by the digest of the token set, ``all`` without a value."""

ENTRY_PREFIX: Final = "forge:l1:"
_MAX_VALUE_CHARS: Final = 256
_HEX: Final = re.compile("[0-9a-f]{64}")
_BATCH: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What a purge did, or would do.

    Args:
        entries: how many entries it met; None where nobody counted.
        is_complete: whether all of the store was looked at; otherwise there are more entries than that.
    """

    by: str
    value: str
    entries: int | None
    is_complete: bool
    is_dry_run: bool


class Purger:
    """Purges one exact cache.

    Args:
        store: where the entries live.
        invalidate: changes the epoch of a tag.
        guard: calls the store within its deadline and breaker.
        secret: of the entries.
        max_looked_at: entries that a count reads.
    """

    def __init__(
        self,
        store: Store,
        *,
        invalidate: Callable[[str], Awaitable[None]],
        guard: Callable[..., Awaitable[Any]],
        secret: bytes,
        max_looked_at: int = 10_000,
    ) -> None:
        self._store = store
        self._invalidate = invalidate
        self._guard = guard
        self._secret = secret
        self._max_looked_at = max_looked_at

    async def purge(
        self, by: str, value: str = "", *, who: str, is_dry_run: bool = False, is_counted: bool = True
    ) -> Purged:
        """Make entries unreachable, and say so in the log.

        Args:
            by: one of `PURGE_BY`.
            value: the key, file, digest, type, tenant or version.
            who: for the audit line.
            is_dry_run: only count.
            is_counted: whether a real purge counts, too.

        Raises:
            BadRequest: there is no such thing to purge by.
            ForgeError or the store's own error: the store could not be asked; nothing was purged.
        """
        _check(by, value)
        if by == "key":
            found = await self._key(value, is_dry_run=is_dry_run)
        else:
            tag = by if by == "all" else f"{by}:{value}"
            entries, is_complete = await self._count(tag) if is_counted or is_dry_run else (None, False)
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
        cursor, looked_at, entries = "", 0, 0
        while True:
            cursor, names = await self._guard(self._store.scan, ENTRY_PREFIX, cursor)
            for start in range(0, len(names), _BATCH):
                batch = names[start : start + _BATCH]
                blobs = await self._guard(self._store.get, batch)
                entries += sum(self._is_under(tag, name, blob) for name, blob in zip(batch, blobs, strict=True))
                looked_at += len(batch)
                if looked_at >= self._max_looked_at:
                    return entries, False
            if not cursor:
                return entries, True

    def _is_under(self, tag: str, name: str, blob: bytes | None) -> bool:
        if blob is None:
            return False
        try:
            return tag in unseal(blob, key=name.removeprefix(ENTRY_PREFIX), secret=self._secret).epochs
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
    text = " ".join(f"{name.removeprefix('purge_')}={value!r}" for name, value in facts.items())
    _audit.info("cache purge: %s", text, extra=facts)
