"""Workers share hints through a real Redis, and lose only the hints in its outage."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.servers import RedisServer

from forge_otel import Forge, Settings
from forge_otel.errors import ForgeError
from forge_otel.resilience.breaker_sharing import BreakerSharing
from forge_otel.resilience.guard import Guard, Guards
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import RetryOptions
from forge_otel.stores.redis.store import open_url

ONCE = Policies(retry=RetryOptions(attempts=1))
SERVICE = "svc"
INTERVAL_S = 0.05
QUICK_S = 0.5
IN_MEMORY: dict[str, Any] = {"archive_url": None, "database_url": None, "outbox_dir": None}


async def _down() -> None:
    raise ConnectionError


async def _up() -> str:
    return "answer"


async def fail(guard: Guard, times: int) -> None:
    """Make guarded calls that fail."""
    for _ in range(times):
        with suppress(ConnectionError, ForgeError):
            await guard.call(_down)


def state(guard: Guard) -> str:
    """Return the state of the breaker."""
    return guard.admission.state().state


def is_sensitized(guard: Guard) -> bool:
    """Return whether the first failure opens the breaker."""
    return guard.admission.now_s() < guard.admission.breaker.sensitized_until_s


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for a condition for at most 10 s."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def two_workers(url: str) -> AsyncIterator[tuple[Guard, Guard]]:
    """Yield the guards of one service in two workers, each with its own connections."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            guards = Guards(policies={SERVICE: ONCE})
            found.append(guards.get(SERVICE))
            store = await stack.enter_async_context(open_url(url, max_bytes=0))
            await stack.enter_async_context(BreakerSharing(store, guards, interval_s=INTERVAL_S))
        yield found[0], found[1]


async def test_a_hint_reaches_the_other_worker_and_expires(fresh_redis: str) -> None:
    """While it exists the first failure opens the breaker, afterwards the fifth."""
    async with two_workers(fresh_redis) as (a, b):
        await fail(a, 5)
        await eventually(lambda: is_sensitized(b))
        assert await b.call(_up) == "answer"
        a.admission.reset()
        await eventually(lambda: not is_sensitized(b))
        await fail(b, 4)
        assert state(b) == "closed"
        await fail(a, 5)
        b.admission.reset()
        await eventually(lambda: is_sensitized(b))
        await fail(b, 1)
        assert state(b) == "open"


async def test_redis_gets_one_read_each_round_and_all_keys_expire(fresh_redis: str) -> None:
    """One MGET for all services and one SET for the open breaker."""
    guards = Guards(policies={SERVICE: ONCE})
    for number in range(20):
        guards.get(f"other-{number}")
    await fail(guards.get(SERVICE), 5)
    async with open_url(fresh_redis, max_bytes=0) as store, Redis.from_url(fresh_redis) as client:
        sharing = BreakerSharing(store, guards)
        await client.config_resetstat()
        await sharing.refresh()
        calls = {name: stats["calls"] for name, stats in (await client.info("commandstats")).items()}
        keys = await client.keys()
        assert (calls["cmdstat_mget"], calls["cmdstat_set"], len(keys)) == (1, 1, 1)
        assert 0 < await client.pttl(keys[0]) <= sharing.ttl_s * 1000


@pytest.mark.parametrize("poison", [b"\xff" * 5_000_000, b"", ["a", "list"]], ids=["huge", "empty", "another type"])
async def test_invalid_values_are_ignored_and_overwritten(fresh_redis: str, poison: bytes | list[str]) -> None:
    """No call fails, and later hints are read."""
    a, b = Guards(policies={SERVICE: ONCE}), Guards(policies={SERVICE: ONCE})
    await fail(a.get(SERVICE), 5)
    async with open_url(fresh_redis, max_bytes=0) as store, Redis.from_url(fresh_redis) as client:
        await BreakerSharing(store, a).refresh()
        key = (await client.keys())[0]
        await client.delete(key)
        await (client.set(key, poison) if isinstance(poison, bytes) else client.rpush(key, *poison))
        await fail(b.get(SERVICE), 4)
        await BreakerSharing(store, b).refresh()
        assert not is_sensitized(b.get(SERVICE))
        await BreakerSharing(store, a).refresh()
        await BreakerSharing(store, b).refresh()
        assert is_sensitized(b.get(SERVICE))


@pytest.mark.parametrize("stop", [RedisServer.pause, RedisServer.kill])
async def test_an_outage_of_redis_does_not_affect_calls(
    redis_server: RedisServer, stop: Callable[[RedisServer], None]
) -> None:
    """Five failures open the breaker, and sharing resumes with Redis."""
    back = redis_server.resume if stop is RedisServer.pause else redis_server.start
    async with two_workers(redis_server.url) as (a, b):
        await fail(a, 5)
        await eventually(lambda: is_sensitized(b))
        await asyncio.to_thread(stop, redis_server)
        await eventually(lambda: not is_sensitized(b))
        started = time.monotonic()
        assert [await b.call(_up) for _ in range(200)] == ["answer"] * 200
        assert time.monotonic() - started < QUICK_S
        await fail(b, 4)
        assert state(b) == "closed"
        await asyncio.to_thread(back)
        await eventually(lambda: is_sensitized(b))


async def test_a_silent_redis_does_not_delay_the_end(redis_server: RedisServer) -> None:
    """Neither sharing nor the connections of the store wait for a response."""
    async with two_workers(redis_server.url) as (a, b):
        await fail(a, 5)
        await eventually(lambda: is_sensitized(b))
        await asyncio.to_thread(redis_server.pause)
        await eventually(lambda: not is_sensitized(b))
        started = time.monotonic()
    assert time.monotonic() - started < QUICK_S


async def test_forges_with_a_common_redis_share_hints(fresh_redis: str) -> None:
    """The first round of each runs when it opens."""
    settings = Settings(cache_url=fresh_redis, **IN_MEMORY)
    a, b = Forge(settings, policies={SERVICE: ONCE}), Forge(settings, policies={SERVICE: ONCE})
    b.guard(SERVICE)
    await fail(a.guard(SERVICE), 5)
    async with Redis.from_url(fresh_redis) as client, a:
        async with asyncio.timeout(5):
            while not await client.keys("forge:{breakers}:*"):
                await asyncio.sleep(0.01)
        async with b:
            await eventually(lambda: is_sensitized(b.guard(SERVICE)))


async def test_a_forge_with_its_own_cache_shares_nothing() -> None:
    """It has no background task for it."""
    async with Forge(Settings(**IN_MEMORY)):
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "breaker sharing"]
