"""Storage of the Figma cache: the store shared by all workers, with an in-process copy for outages of that store.

Small facts (version of a file, requested pauses) are sealed JSON. Bodies are stored under the hash of their content, so
the in-process copy is as good as the shared one, and large designs are not transferred for each request.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import orjson

from forge_otel._internal.frames import DamagedFrame, FrameFormat
from forge_otel.resilience.guard import unguarded
from forge_otel.stores.memory import MemoryStore
from forge_otel.types import Store

__all__ = ["EPOCH_PREFIX", "FigmaCacheStorage"]

EPOCH_PREFIX: Final = "forge:l0:epoch:"
"""Prefix of the keys of epochs."""

# Designs are repetitive JSON, which deflates to a tenth.
_FRAMES: Final = FrameFormat(magic=b"FGF1", domain=b"figma\0", compress_above_bytes=4 * 1024)

T = TypeVar("T")

Guarded = Callable[..., Awaitable[Any]]

# Hashing and inflating more than this would block the event loop for more than a few milliseconds.
_THREAD_ABOVE_BYTES: Final = 256 * 1024


class FigmaCacheStorage:
    """Reads and writes facts, epochs and bodies; an unavailable store and damaged values count as missing.

    Args:
        store: shared by all workers.
        secret: authenticates the values.
        guard: `await guard(function, *args)` calls the store within its deadline and breaker.
        local_bytes: size of the in-process copy; 0 if the store itself is in this process.
    """

    def __init__(self, store: Store, *, secret: bytes, guard: Guarded = unguarded, local_bytes: int = 0) -> None:
        self._store = store
        self._secret = secret
        self._guard = guard
        self._local = MemoryStore(max_bytes=local_bytes) if local_bytes else None

    @property
    def is_shared(self) -> bool:
        """Return whether other processes may use the store."""
        return self._local is not None

    async def read_facts(self, keys: Sequence[str]) -> list[Mapping[str, Any] | None]:
        """Return the facts under `keys`, in their order and in one round trip."""
        found = await self._get(keys)
        return [None if blob is None else self._unseal_fact(key, blob) for key, blob in zip(keys, found, strict=True)]

    async def write_fact(self, key: str, fact: Mapping[str, Any], *, ttl_s: float) -> None:
        """Store a fact for `ttl_s` seconds."""
        await self._set(key, self._seal_fact(key, fact), ttl_s=ttl_s)

    async def epoch(self, key: str) -> str:
        """Return the epoch under `key`; a missing one is created with a random value that no entry has."""
        fresh = self._new_epoch(key)
        try:
            blob = await self._guard(self._store.add, key, fresh)
        except Exception:
            blob = fresh if self._local is None else await self._local.add(key, fresh)
        fact = self._unseal_fact(key, blob)
        if fact is None:
            # A damaged epoch is replaced, which invalidates all entries made under it.
            await self._set(key, fresh, ttl_s=None)
            fact = self._unseal_fact(key, fresh) or {}
        return str(fact["epoch"])

    async def renew_epoch(self, key: str) -> None:
        """Invalidate everything that was stored under the epoch at `key`.

        Raises:
            Exception: of the guard or the store; other workers were not reached, only this process.
        """
        blob = self._new_epoch(key)
        if self._local is not None:
            await self._local.set(key, blob)
        await self._guard(self._store.set, key, blob)

    async def read_body(self, digest: str) -> bytes | None:
        """Return the body with that content hash."""
        key = _body_key(digest)
        blob = None if self._local is None else (await self._local.get([key]))[0]
        if blob is None:
            (blob,) = await self._get([key])
            if blob is not None and self._local is not None:
                await self._local.set(key, blob)
        if blob is None:
            return None
        try:
            _, body = await _off_loop(len(blob), _FRAMES.unseal, blob, key=key, secret=self._secret)
        except DamagedFrame:
            return None
        return body

    async def write_body(self, body: bytes, *, ttl_s: float) -> str:
        """Store a body and return its content hash."""
        digest = hashlib.sha256(body).hexdigest()
        key = _body_key(digest)
        await self._set(key, await _off_loop(len(body), _FRAMES.seal, body, key=key, secret=self._secret), ttl_s=ttl_s)
        return digest

    def _seal_fact(self, key: str, fact: Mapping[str, Any]) -> bytes:
        return _FRAMES.seal(orjson.dumps(fact), key=key, secret=self._secret)

    def _unseal_fact(self, key: str, blob: bytes) -> Mapping[str, Any] | None:
        try:
            fact = orjson.loads(_FRAMES.unseal(blob, key=key, secret=self._secret)[1])
        except ValueError:
            return None
        return fact if isinstance(fact, dict) else None

    def _new_epoch(self, key: str) -> bytes:
        return self._seal_fact(key, {"epoch": secrets.token_hex(8)})

    async def _get(self, keys: Sequence[str]) -> list[bytes | None]:
        try:
            found: list[bytes | None] = await self._guard(self._store.get, keys)
        except Exception:
            return [None] * len(keys) if self._local is None else await self._local.get(keys)
        await self._copy_epochs(keys, found)
        return found

    async def _copy_epochs(self, keys: Sequence[str], found: Sequence[bytes | None]) -> None:
        # Without the current epochs, no entry of the in-process copy could be used during an outage of the store.
        if self._local is None:
            return
        for key, blob in zip(keys, found, strict=True):
            if blob is not None and key.startswith(EPOCH_PREFIX):
                await self._local.set(key, blob)

    async def _set(self, key: str, blob: bytes, *, ttl_s: float | None) -> None:
        if self._local is not None:
            await self._local.set(key, blob, ttl_s=ttl_s)
        try:
            await self._guard(self._store.set, key, blob, ttl_s=ttl_s)
        except Exception:
            # The response itself is unaffected, and this process has its own copy.
            return


def _body_key(digest: str) -> str:
    return f"forge:l0:body:{digest}"


async def _off_loop(size_bytes: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    if size_bytes > _THREAD_ABOVE_BYTES:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)
