"""Workers advise each other through a real Redis, and miss nothing but the advice when it is away."""

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
AT_ONCE_S = 0.5
IN_MEMORY: dict[str, Any] = {"archive_url": None, "database_url": None, "outbox_dir": None}


async def _down() -> None:
    raise ConnectionError


async def _up() -> str:
    return "answer"


async def fail(guard: Guard, times: int) -> None:
    """So many guarded calls of which none is answered."""
    for _ in range(times):
        with suppress(ConnectionError, ForgeError):
            await guard.call(_down)


def state(guard: Guard) -> str:
    """Of its breaker."""
    return guard.admission.state().state


def is_sensitized(guard: Guard) -> bool:
    """Whether the next failure would open its breaker."""
    return guard.admission.is_sensitized


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for a condition, not for ever."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def two_workers(url: str) -> AsyncIterator[tuple[Guard, Guard]]:
    """The guards of one service in two workers, each with connections of its own."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            guards = Guards(policies={SERVICE: ONCE})
            found.append(guards.get(SERVICE))
            store = await stack.enter_async_context(open_url(url, max_bytes=0))
            await stack.enter_async_context(BreakerSharing(store, guards, interval_s=INTERVAL_S))
        yield found[0], found[1]


async def test_a_notice_reaches_the_other_worker_and_ends(fresh_redis: str) -> None:
    """First failure while it lives; five again when the first worker has recovered."""
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


async def test_redis_sees_one_read_a_round_and_keeps_nothing(fresh_redis: str) -> None:
    """One MGET for all services, one SET for the one that is given up, and every key has an end."""
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


@pytest.mark.parametrize("poison", [b"\xff" * 5_000_000, b"", ["a", "list"]], ids=["huge", "empty", "another kind"])
async def test_what_is_no_notice_is_ignored_and_written_over(fresh_redis: str, poison: bytes | list[str]) -> None:
    """Whoever wrote it: no call fails, and the next worker with something to say is heard."""
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


@pytest.mark.parametrize("away", [RedisServer.pause, RedisServer.kill])
async def test_calls_do_not_notice_that_redis_is_away(
    redis_server: RedisServer, away: Callable[[RedisServer], None]
) -> None:
    """They are answered at once, five failures count as ever, and advice is back when Redis is."""
    back = redis_server.resume if away is RedisServer.pause else redis_server.start
    async with two_workers(redis_server.url) as (a, b):
        await fail(a, 5)
        await eventually(lambda: is_sensitized(b))
        await asyncio.to_thread(away, redis_server)
        await eventually(lambda: not is_sensitized(b))
        started = time.monotonic()
        assert [await b.call(_up) for _ in range(200)] == ["answer"] * 200
        assert time.monotonic() - started < AT_ONCE_S
        await fail(b, 4)
        assert state(b) == "closed"
        await asyncio.to_thread(back)
        await eventually(lambda: is_sensitized(b))


async def test_leaving_takes_no_time_when_redis_is_silent(redis_server: RedisServer) -> None:
    """Neither the board nor the store's connections wait for an answer."""
    async with two_workers(redis_server.url) as (a, b):
        await fail(a, 5)
        await eventually(lambda: is_sensitized(b))
        await asyncio.to_thread(redis_server.pause)
        await eventually(lambda: not is_sensitized(b))
        started = time.monotonic()
    assert time.monotonic() - started < AT_ONCE_S


async def test_forges_that_share_a_redis_tell_each_other(fresh_redis: str) -> None:
    """The first round of each is made when it opens."""
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


async def test_a_forge_whose_cache_is_its_own_has_nobody_to_tell() -> None:
    """No board, no task."""
    async with Forge(Settings(**IN_MEMORY)):
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "breaker sharing"]
