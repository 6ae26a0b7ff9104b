"""The tags by which answers are invalidated, and their epochs: an entry is good while its tags have the epochs of its
making.

Epochs are drawn at random, so that no entry can have been made under one, also not before an eviction or a restart; one
that is gone reads as unknown, never as equal.
"""

import asyncio
import secrets
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from forge_otel.keys import digest
from forge_otel.resilience.time_budget import behind
from forge_otel.types import GenerationRequest, Store
from forge_otel.types.capabilities import SupportsBatchAdd

__all__ = ["TagVersions", "epoch_key", "new_epoch", "tags_of"]

_EVERYTHING: Final = "all"
_MAX_TOGETHER: Final = 100
_AT_ONCE: Final = 4


def tags_of(request: GenerationRequest, *, version: str = "") -> list[str]:
    """Return the tags by which answers to `request` can be invalidated, `all` first.

    Args:
        version: of the pipeline; empty leaves its tag out.
    """
    tags = [_EVERYTHING, f"type:{request.component_type}", f"tokens:{digest(request.tokens)}"]
    if version:
        tags.append(f"version:{version}")
    if request.figma_key is not None:
        tags.append(f"figma:{request.figma_key}")
    if request.tenant is not None:
        tags.append(f"tenant:{request.tenant}")
    # Equal requests have equal tags, in whichever Unicode form they were sent: their keys are equal, too.
    return [tag if tag.isascii() else unicodedata.normalize("NFC", tag) for tag in tags]


@lru_cache(maxsize=4096)
def epoch_key(tag: str) -> str:
    """Return the store's key of a tag's epoch: hashed, because a tag holds what callers send."""
    return f"forge:epoch:{digest(tag)[:32]}"


def new_epoch() -> bytes:
    """Make an epoch that there has never been."""
    return secrets.token_hex(8).encode()


class TagVersions:
    """Makes epochs that are missing, once for all who miss them; for one event loop.

    One that is outdated when they get it only makes a miss of a hit.

    Args:
        store: where they live; one with `add_all` is asked for many in one step.
        guard: `await guard(function, *args)` calls the store.
    """

    def __init__(self, store: Store, *, guard: Callable[..., Awaitable[Any]]) -> None:
        self._add_all = store.add_all if isinstance(store, SupportsBatchAdd) else None
        self._add = store.add
        self._guard = guard
        self._making: dict[str, asyncio.Future[bytes]] = {}
        self._wanted: list[str] = []
        # Holds the tasks: the event loop keeps only weak references.
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def make(self, tags: Sequence[str]) -> list[bytes]:
        """Return the epochs of these tags, in their order.

        Raises:
            Exception: what the store raises.
        """
        loop = asyncio.get_running_loop()
        for tag in tags:
            if tag in self._making:
                continue
            self._making[tag] = loop.create_future()
            self._wanted.append(tag)
            if len(self._wanted) == 1:
                # In the same turn of the loop others may want more.
                loop.call_soon(self._send)
        making = [self._making[tag] for tag in tags]
        await asyncio.wait(making)
        return [future.result() for future in making]

    def _send(self) -> None:
        wanted, self._wanted = self._wanted, []
        size = 1 if self._add_all is None else _MAX_TOGETHER
        for first in range(0, len(wanted), size):
            task = behind(self._add_some(wanted[first : first + size]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _add_some(self, tags: Sequence[str]) -> None:
        futures = [self._making[tag] for tag in tags]
        try:
            async with self._turns:
                found = await self._added(tags)
        except Exception as exc:
            for future in futures:
                future.set_exception(exc)
                # Whoever wanted it may have left.
                future.exception()
        else:
            for future, epoch in zip(futures, found, strict=True):
                future.set_result(epoch)
        finally:
            for tag, future in zip(tags, futures, strict=True):
                future.cancel()
                del self._making[tag]

    async def _added(self, tags: Sequence[str]) -> list[bytes]:
        if self._add_all is None:
            return [await self._guard(self._add, epoch_key(tag), new_epoch()) for tag in tags]
        found: list[bytes] = await self._guard(self._add_all, {epoch_key(tag): new_epoch() for tag in tags})
        return found
