"""Claims on running fetches: of several workers one fetches a file, while the other ones wait for its response.

A claim is renewed while its fetch runs, so the claim of a worker that was killed expires. Two workers that claim within
the same round trip may both fetch.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from forge_otel._internal.tasks import BackgroundTask
from forge_otel.figma.cache_storage import FigmaCacheStorage
from forge_otel.keys import digest

__all__ = ["FetchClaims"]

_TTL_S: Final = 15.0
_RENEW_S: Final = 5.0
_RELEASED_TTL_S: Final = 1.0


class FetchClaims:
    """Claims of this worker and view of those of its peers; without a shared store there are none.

    Args:
        storage: shared by the workers.
    """

    def __init__(self, storage: FigmaCacheStorage) -> None:
        self._storage = storage
        self._instance = secrets.token_hex(8)

    async def is_held_by_peer(self, flight_key: str) -> bool:
        """Return whether another worker is fetching."""
        if not self._storage.is_shared:
            return False
        (claim,) = await self._storage.read_facts([_key(flight_key)])
        return claim is not None and claim["worker"] not in {"", self._worker()}

    @asynccontextmanager
    async def hold(self, flight_key: str) -> AsyncGenerator[None, None]:
        """Hold the claim inside the block."""
        if not self._storage.is_shared:
            yield
            return
        await self._write(flight_key, self._worker(), _TTL_S)
        renewal = BackgroundTask(partial(self._renew, flight_key), name="claim of a Figma fetch")
        renewal.start()
        try:
            yield
        finally:
            await renewal.stop()
            await self._write(flight_key, "", _RELEASED_TTL_S)

    async def _renew(self, flight_key: str) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            await self._write(flight_key, self._worker(), _TTL_S)

    async def _write(self, flight_key: str, worker: str, ttl_s: float) -> None:
        await self._storage.write_fact(_key(flight_key), {"worker": worker}, ttl_s=ttl_s)

    def _worker(self) -> str:
        # With the process id, because a forked child has the instance of its parent.
        return f"{os.getpid()}:{self._instance}"


def _key(flight_key: str) -> str:
    return f"forge:l0:fetching:{digest(flight_key)}"
