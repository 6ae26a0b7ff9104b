"""Tags of answers and their versions: an entry is valid while all its tags have the versions under which it was made.

Versions are random, so that no entry can have been made under a new one, even after an eviction or a restart of the
store. A missing version is treated as unknown, never as equal.
"""

import asyncio
import secrets
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from forge_otel._internal.tasks import TaskSet
from forge_otel.keys import digest, tokens_digest_of
from forge_otel.resilience.time_budget import start_detached
from forge_otel.types import Call, Store
from forge_otel.types.capabilities import SupportsBatchAdd

__all__ = ["TagVersions", "new_tag_version", "tag_version_key", "tags_of"]

_ALL: Final = "all"
_MAX_BATCH: Final = 100
_CONCURRENCY: Final = 4


def tags_of(call: Call, *, version: str = "") -> list[str]:
    """Return the tags by which answers to `call` can be invalidated, `all` first.

    Args:
        version: version of the pipeline; empty omits its tag.
    """
    request = call.request
    tags = [_ALL, f"type:{request.component_type}", f"tokens:{tokens_digest_of(call)}"]
    if version:
        tags.append(f"version:{version}")
    if request.figma_key is not None:
        tags.append(f"figma:{request.figma_key}")
    if request.tenant is not None:
        tags.append(f"tenant:{request.tenant}")
    # Request keys are normalised to NFC, so tags are too: equal requests must have equal tags.
    return [tag if tag.isascii() else unicodedata.normalize("NFC", tag) for tag in tags]


@lru_cache(maxsize=4096)
def tag_version_key(tag: str) -> str:
    """Return the store's key of a tag's version."""
    # Hashed, because a tag contains text from callers.
    return f"forge:epoch:{digest(tag)[:32]}"


def new_tag_version() -> bytes:
    """Draw a random version."""
    return secrets.token_hex(8).encode()


class TagVersions:
    """Creates missing tag versions, once for all concurrent callers; it belongs to one event loop.

    A version that changes before a caller receives it turns a hit into a miss, never the reverse.

    Args:
        store: holds the versions; a store with `add_all` creates many in one step.
        guard: `await guard(function, *args)` calls the store.
    """

    def __init__(self, store: Store, *, guard: Callable[..., Awaitable[Any]]) -> None:
        self._add_all = store.add_all if isinstance(store, SupportsBatchAdd) else None
        self._add = store.add
        self._guard = guard
        self._pending: dict[str, asyncio.Future[bytes]] = {}
        self._queue: list[str] = []
        self._batches: TaskSet[None] = TaskSet()
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def create_missing(self, tags: Sequence[str]) -> list[bytes]:
        """Create the versions of these tags where the store has none, and return all in order.

        Raises:
            Exception: the error of the store.
        """
        loop = asyncio.get_running_loop()
        for tag in tags:
            if tag in self._pending:
                continue
            self._pending[tag] = loop.create_future()
            self._queue.append(tag)
            if len(self._queue) == 1:
                # Deferred to the end of this loop iteration, so that concurrent callers share the batch.
                loop.call_soon(self._send)
        pending = [self._pending[tag] for tag in tags]
        await asyncio.wait(pending)
        return [future.result() for future in pending]

    def _send(self) -> None:
        queue, self._queue = self._queue, []
        size = 1 if self._add_all is None else _MAX_BATCH
        for first in range(0, len(queue), size):
            self._batches.hold(start_detached(self._create(queue[first : first + size])))

    async def _create(self, tags: Sequence[str]) -> None:
        futures = [self._pending[tag] for tag in tags]
        try:
            async with self._slots:
                found = await self._add_to_store(tags)
        except Exception as exc:
            for future in futures:
                future.set_exception(exc)
                # Marks the exception as retrieved, in case every caller was cancelled meanwhile.
                future.exception()
        else:
            for future, version in zip(futures, found, strict=True):
                future.set_result(version)
        finally:
            for tag, future in zip(tags, futures, strict=True):
                # No effect on a finished future; if this task was cancelled, so are the callers.
                future.cancel()
                del self._pending[tag]

    async def _add_to_store(self, tags: Sequence[str]) -> list[bytes]:
        if self._add_all is None:
            return [await self._guard(self._add, tag_version_key(tag), new_tag_version()) for tag in tags]
        found: list[bytes] = await self._guard(self._add_all, {tag_version_key(tag): new_tag_version() for tag in tags})
        return found
