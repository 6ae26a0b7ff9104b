"""Where L0 keeps things: in the store that all workers share, and in this process for when that store is away.

Small things (what is known of a file, who asked to be left alone) are sealed JSON. Bodies are kept under the hash of
their content, so that a copy in this process is as good as the shared one and large designs do not travel each time.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import orjson

from forge_otel._internal.frames import DamagedFrame, FrameFormat
from forge_otel.stores.memory import MemoryStore
from forge_otel.types import Store

__all__ = ["EPOCH", "FigmaCacheStorage", "unguarded"]

EPOCH: Final = "forge:l0:epoch:"
"""What the keys of epochs begin with."""

# Designs are repetitive JSON, which deflates to a tenth.
_FRAMES: Final = FrameFormat(magic=b"FGF1", domain=b"figma\0", compress_above_bytes=4 * 1024)

T = TypeVar("T")

Guarded = Callable[..., Awaitable[Any]]

# Hashing and inflating more than this would hold the event loop for more than a few milliseconds.
_THREAD_ABOVE_BYTES: Final = 256 * 1024


async def unguarded(call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    """Call a store that is in this process."""
    return await call(*args, **kwargs)


class FigmaCacheStorage:
    """Reads and writes what L0 keeps; a store that is away, and what is damaged, is as if nothing were there.

    Args:
        store: shared by all workers.
        secret: authenticates what is kept.
        guard: `await guard(function, *args)` calls the store within its deadline and breaker.
        local_bytes: bound of the copy in this process; 0 where the store itself is in this process.
    """

    def __init__(self, store: Store, *, secret: bytes, guard: Guarded = unguarded, local_bytes: int = 0) -> None:
        self._store = store
        self._secret = secret
        self._guard = guard
        self._local = MemoryStore(max_bytes=local_bytes) if local_bytes else None

    async def facts(self, keys: Sequence[str]) -> list[Mapping[str, Any] | None]:
        """Return what is known under `keys`, in their order and in one round trip."""
        found = await self._get(keys)
        return [None if blob is None else self._fact(key, blob) for key, blob in zip(keys, found, strict=True)]

    async def note(self, key: str, fact: Mapping[str, Any], *, ttl_s: float) -> None:
        """Remember a fact for `ttl_s` seconds."""
        await self._set(key, _FRAMES.seal(orjson.dumps(fact), key=key, secret=self._secret), ttl_s=ttl_s)

    async def epoch(self, key: str) -> str:
        """Return the epoch under `key`; one that is gone was never seen before, so that nothing it ended comes back."""
        fresh = _FRAMES.seal(orjson.dumps({"epoch": secrets.token_hex(8)}), key=key, secret=self._secret)
        store = self._store
        try:
            blob = await self._guard(store.add, key, fresh)
        except Exception:
            blob = fresh if self._local is None else await self._local.add(key, fresh)
        fact = self._fact(key, blob)
        if fact is None:
            # A damaged epoch is nobody's: whatever was made under it is over.
            await self._set(key, fresh, ttl_s=None)
            fact = self._fact(key, fresh) or {}
        return str(fact["epoch"])

    async def renew_epoch(self, key: str) -> None:
        """End everything that was made under the epoch at `key`.

        Raises:
            ForgeError or the store's own error: other workers could not be told; in this process it is ended.
        """
        blob = _FRAMES.seal(orjson.dumps({"epoch": secrets.token_hex(8)}), key=key, secret=self._secret)
        if self._local is not None:
            await self._local.set(key, blob)
        await self._guard(self._store.set, key, blob)

    async def body(self, digest: str) -> bytes | None:
        """Return the body of that content hash."""
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

    async def keep_body(self, body: bytes, *, ttl_s: float) -> str:
        """Keep a body; return its content hash."""
        digest = hashlib.sha256(body).hexdigest()
        key = _body_key(digest)
        await self._set(key, await _off_loop(len(body), _FRAMES.seal, body, key=key, secret=self._secret), ttl_s=ttl_s)
        return digest

    def _fact(self, key: str, blob: bytes) -> Mapping[str, Any] | None:
        try:
            fact = orjson.loads(_FRAMES.unseal(blob, key=key, secret=self._secret)[1])
        except ValueError:
            return None
        return fact if isinstance(fact, dict) else None

    async def _get(self, keys: Sequence[str]) -> list[bytes | None]:
        try:
            found: list[bytes | None] = await self._guard(self._store.get, keys)
        except Exception:
            return [None] * len(keys) if self._local is None else await self._local.get(keys)
        await self._follow_epochs(keys, found)
        return found

    async def _follow_epochs(self, keys: Sequence[str], found: Sequence[bytes | None]) -> None:
        """Let the copy in this process be under the same epochs, or nothing in it could be used without the store."""
        if self._local is None:
            return
        for key, blob in zip(keys, found, strict=True):
            if blob is not None and key.startswith(EPOCH):
                await self._local.set(key, blob)

    async def _set(self, key: str, blob: bytes, *, ttl_s: float | None) -> None:
        if self._local is not None:
            await self._local.set(key, blob, ttl_s=ttl_s)
        try:
            await self._guard(self._store.set, key, blob, ttl_s=ttl_s)
        except Exception:
            # It was answered all the same, and is in this process.
            return


def _body_key(digest: str) -> str:
    return f"forge:l0:body:{digest}"


async def _off_loop(size_bytes: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    if size_bytes > _THREAD_ABOVE_BYTES:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)
