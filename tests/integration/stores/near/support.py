"""A near cache and another client of the same server, for the tests of this folder."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.store import RedisStore, open_url

ENTRY, TAG_VERSION = "forge:l1:a", "forge:epoch:a"
Act = Callable[..., Awaitable[None]]


def open_near(url: str, *, max_stale_s: float = 5.0) -> NearStore:
    """Return a near cache that is not open yet."""
    store = open_url(url, max_bytes=0)
    assert isinstance(store, RedisStore)
    return NearStore(store, max_bytes=10**6, max_stale_s=max_stale_s)


class OtherProcess:
    """Runs `worker.py`; entering it yields a function that executes one command there and waits for its end."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Act:
        worker = Path(__file__).with_name("worker.py")
        pipe = asyncio.subprocess.PIPE
        self._child = await asyncio.create_subprocess_exec(sys.executable, worker, self._url, stdin=pipe, stdout=pipe)
        return self._act

    async def __aexit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        await self._child.wait()

    async def _act(self, *words: object) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(words).encode() + b"\n")
        async with asyncio.timeout(30):
            assert await self._child.stdout.readline() == b"done\n"


async def until(condition: Callable[[], bool], *, within_s: float = 20) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def until_near(near: NearStore, key: str, *, within_s: float = 20) -> None:
    """Fetch until a copy is kept: the push of an earlier write, or an outage, may prevent the first ones."""
    async with asyncio.timeout(within_s):
        while not (await near.synchronize() and await _is_fetched(near, key) and near.peek([key])):
            await asyncio.sleep(0.01)


async def _is_fetched(near: NearStore, key: str) -> bool:
    try:
        return await near.fetch([key]) != [None]
    except Exception:
        return False
