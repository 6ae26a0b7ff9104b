"""The near cache gives what Redis has, whoever changes it, and nothing while it cannot know."""

import asyncio
import json
import os
import random
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import running
from tests.servers.redis import RedisServer
from tests.servers.redis_groups import RedisSentinelServers

from forge_otel._runtime import components as _parts
from forge_otel.errors import ConfigurationError
from forge_otel.settings import Settings
from forge_otel.stores.memory import MemoryStore
from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.store import RedisStore, open_url
from forge_otel.testing.contracts.store_contract import StoreContract
from forge_otel.testing.faults.proxy import FaultProxy, Silent
from forge_otel.types import Lease

ENTRY, EPOCH = "forge:l1:a", "forge:epoch:a"
Other = Callable[..., Awaitable[None]]


@pytest.fixture
async def near(fresh_redis: str) -> AsyncIterator[NearStore]:
    """A near cache on an empty server."""
    async with _near(fresh_redis) as opened:
        yield opened


@pytest.fixture
async def other(fresh_redis: str) -> AsyncIterator[Other]:
    """Another process on the same server; returns when it has done what it was told."""
    async with _Process(fresh_redis) as act:
        yield act


class TestNearStore(StoreContract):
    """The contract of all stores."""

    @pytest.fixture
    def store(self, near: NearStore) -> NearStore:
        """What everybody else uses, too."""
        return near


@pytest.mark.parametrize("key", [ENTRY, EPOCH])
async def test_what_was_fetched_is_near_until_another_process_changes_it(
    near: NearStore, other: Other, key: str
) -> None:
    """Overwritten, deleted and flushed: it is gone, and what is fetched then is near again."""
    for change in (["set", key, "2"], ["delete", key], ["flush"]):
        await other("set", key, "1")
        assert await near.synchronize()
        assert await near.fetch([key]) == [b"1"]
        assert near.peek([key]) == [b"1"]
        await other(*change)
        assert await near.synchronize()
        assert near.peek([key]) is None


async def test_a_push_comes_by_itself(near: NearStore, other: Other) -> None:
    """Nobody has to ask for it."""
    await near.set(ENTRY, b"1")
    await _until_near(near, ENTRY)
    await other("set", ENTRY, "2")
    await _until(lambda: near.peek([ENTRY]) is None)


async def test_other_keys_are_not_kept(near: NearStore) -> None:
    """Counters and notices change at every turn, and nothing tells of them."""
    await near.set("forge:budget:x", b"1")
    await near.fetch(["forge:budget:x"])
    assert near.peek(["forge:budget:x"]) is None


async def test_only_all_of_it_is_given(near: NearStore) -> None:
    """An entry without the epochs that it is compared with is no use."""
    await near.set(ENTRY, b"1")
    await _until_near(near, ENTRY)
    assert near.peek([ENTRY, EPOCH]) is None


async def test_what_is_not_there_is_not_kept(near: NearStore) -> None:
    """It may come at any moment, and then it is seen at once."""
    assert await near.fetch([ENTRY]) == [None]
    assert near.peek([ENTRY]) is None


async def test_the_life_of_an_entry_ends_near_by_too(near: NearStore, other: Other) -> None:
    """At the same moment as on the server, which does not tell of it at once."""
    await other("set", ENTRY, "1", 0.3)
    assert await near.synchronize()
    started_s = time.monotonic()
    while near.peek([ENTRY]) is None and time.monotonic() < started_s + 0.25:
        await near.fetch([ENTRY])
    await _until(lambda: time.monotonic() >= started_s + 0.3)
    assert near.peek([ENTRY]) is None


async def test_own_writes_are_seen_at_once(near: NearStore) -> None:
    """When the write has returned nothing older is near, without waiting for the push."""
    for write in (
        lambda: near.set(ENTRY, b"2"),
        lambda: near.delete([ENTRY]),
        lambda: near.increment({ENTRY: 1}, ttl_s=9),
    ):
        await near.set(ENTRY, b"1")
        await _until_near(near, ENTRY)
        await write()
        assert near.peek([ENTRY]) is None


async def test_what_a_lease_commits_is_seen_at_once(near: NearStore) -> None:
    """The script writes beside the store, and whoever asks next must not see the entry before it."""
    leases = near.leases()
    await near.set(ENTRY, b"outdated")
    await _until_near(near, ENTRY)
    lease = await leases.acquire(ENTRY, "t", ttl_s=9, waited_s=0)
    assert isinstance(lease, Lease)
    assert await leases.commit(lease, b"new", ttl_s=None)
    assert near.peek([ENTRY]) is None
    assert await near.fetch([ENTRY]) == [b"new"]


class _Held(RedisStore):
    """A store whose answers are on their way for as long as the test wants."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store._client)
        self.is_read = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def get_with_ttls(self, keys: Any, lasting: Any, /) -> Any:
        """Read now, answer later."""
        found = await super().get_with_ttls(keys, lasting)
        self.is_read.set()
        await self.may_answer.wait()
        return found


@pytest.mark.parametrize("change", [["set", ENTRY, "2"], ["flush"], ["kill"]], ids=lambda change: change[0])
async def test_an_answer_that_was_overtaken_is_not_kept(fresh_redis: str, other: Other, change: list[str]) -> None:
    """A change is pushed while the answer from before it is still on its way."""
    await other("set", ENTRY, "1")
    store = _Held(open_url(fresh_redis, max_bytes=0))
    async with NearStore(store, max_bytes=10**6) as near:
        reading = asyncio.create_task(near.fetch([ENTRY]))
        await store.is_read.wait()
        await other(*change)
        if change == ["kill"]:
            await _until(lambda: not near._tracking.is_connected)
        async with asyncio.timeout(10):
            while not await near.synchronize():
                await asyncio.sleep(0.01)
        store.may_answer.set()
        await asyncio.gather(reading, return_exceptions=True)
        assert near.peek([ENTRY]) is None


async def test_a_lost_connection_flushes_at_once(near: NearStore, other: Other) -> None:
    """CLIENT KILL: nothing is given until it is heard again, and then nothing from before."""
    await near.set(ENTRY, b"1")
    await _until_near(near, ENTRY)
    await other("kill")
    await _until(lambda: len(near) == 0)
    await other("set", ENTRY, "2")
    await _until_near(near, ENTRY)
    assert near.peek([ENTRY]) == [b"2"]


async def test_a_restarted_server_is_believed_only_what_it_says_anew(redis_server: RedisServer) -> None:
    """Killed and started: near hits stop with the connection, and come back."""
    async with _near(redis_server.url) as near:
        await near.set(ENTRY, b"1")
        await _until_near(near, ENTRY)
        await asyncio.to_thread(redis_server.kill)
        await _until(lambda: near.peek([ENTRY]) is None)
        assert len(near) == 0
        assert not await near.synchronize()
        await asyncio.to_thread(redis_server.start)
        await _until_near(near, ENTRY)


async def test_behind_a_black_hole_nothing_is_given_beyond_the_staleness(shared_redis: RedisServer) -> None:
    """What changes there is not heard; so after `max_stale_s` nothing is given, and never again what was before."""
    shared_redis.flush()
    async with (
        FaultProxy("127.0.0.1", shared_redis.port) as proxy,
        open_url(shared_redis.url, max_bytes=0) as direct,
        _near(proxy.url_for(shared_redis.url), max_stale_s=0.5) as near,
    ):
        await direct.set(ENTRY, b"1")
        await _until_near(near, ENTRY)
        async with proxy.fault(Silent()):
            await direct.set(ENTRY, b"2")
            changed_s = time.monotonic()
            given = []
            while True:
                asked_s = time.monotonic()
                if near.peek([ENTRY]) is None:
                    break
                given.append(asked_s - changed_s)
                await asyncio.sleep(0.005)
            # The last answer to a PING came before the change, whatever the clocks of the machine do to this test.
            assert max(given, default=0.0) <= 0.5
            await _until(lambda: len(near) == 0)
        await _until_near(near, ENTRY)
        assert near.peek([ENTRY]) == [b"2"]


async def test_a_server_that_does_not_let_us_track_is_used_without(
    fresh_redis: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, and everything is fetched."""
    async with open_url(fresh_redis, max_bytes=0) as admin:
        await admin._client.execute_command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "+@all", "-client")
    try:
        async with _near(fresh_redis.replace("redis://", "redis://plain:pw@")) as near:
            await near.set(ENTRY, b"1")
            assert await near.fetch([ENTRY]) == [b"1"]
            assert near.peek([ENTRY]) is None
        assert caplog.text.count("near cache disabled") == 1
    finally:
        async with open_url(fresh_redis, max_bytes=0) as admin:
            await admin._client.execute_command("ACL", "DELUSER", "plain")


async def test_a_forked_process_gets_nothing(near: NearStore) -> None:
    """It has a copy of what was kept, but nobody tells it of changes."""
    await near.set(ENTRY, b"1")
    await _until_near(near, ENTRY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os._exit(0 if near.peek([ENTRY]) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert near.peek([ENTRY]) == [b"1"]


async def test_the_bounds_hold(fresh_redis: str) -> None:
    """Bytes and entries; what was used last stays, and one answer does not push out all others."""
    async with NearStore(open_url(fresh_redis, max_bytes=0), max_bytes=200_000, max_entries=50) as near:
        generator = random.Random(1)
        for number in range(300):
            await near.set(f"forge:l1:{number}", b"x" * generator.randrange(20_000))
        # The push that tells of a write of our own may come after the write has returned.
        assert await near.synchronize()
        for number in range(300):
            await near.fetch([f"forge:l1:{number}"])
            assert near.size_bytes <= 200_000
            assert len(near) <= 50
        assert len(near) > 5
        await near.set(ENTRY, b"1")
        await _until_near(near, ENTRY)
        await near.set("forge:l1:giant", b"x" * 100_000)
        await near.fetch(["forge:l1:giant"])
        assert near.peek([ENTRY]) == [b"1"]
        assert near.peek(["forge:l1:giant"]) is None


async def test_two_processes_never_disagree(near: NearStore, other: Other) -> None:
    """10 000 random steps: what was told to be written before `synchronize` is never followed by anything older."""
    generator = random.Random(20)
    keys = [f"forge:l1:{number}" for number in range(6)] + [f"forge:epoch:{number}" for number in range(3)]
    expected: dict[str, bytes] = {}
    hits = 0
    for step in range(10_000):
        key, value = generator.choice(keys), f"v{step}"
        what = generator.random()
        if what < 0.08:
            await other("set", key, value)
            expected[key] = value.encode()
        elif what < 0.11:
            await other("delete", key)
            expected.pop(key, None)
        elif what < 0.15:
            await near.set(key, value.encode())
            expected[key] = value.encode()
        elif what < 0.152:
            await other("flush")
            expected.clear()
        elif what < 0.5:
            assert await near.fetch([key]) == [expected.get(key)], step
        if 0.11 <= what < 0.15:
            # An own write needs no push to be seen.
            assert near.peek([key]) is None
            continue
        if what < 0.152:
            assert await near.synchronize()
        looked = generator.sample(keys, 2)
        found = near.peek(looked)
        if found is not None:
            hits += 1
            assert found == [expected.get(name) for name in looked], step
    assert hits > 500


async def test_it_works_behind_sentinel_through_a_failover() -> None:
    """The master is killed: near hits stop, and come back from the new one."""
    with running(RedisSentinelServers) as servers:
        async with _near(servers.url) as near:
            await near.set(ENTRY, b"1")
            await _until_near(near, ENTRY)
            await asyncio.to_thread(servers.master.kill)
            await _until(lambda: near.peek([ENTRY]) is None)
            async with asyncio.timeout(40):
                # The replica may not have had it yet.
                while not await _written(near, ENTRY):
                    await asyncio.sleep(0.05)
            await _until_near(near, ENTRY)


def test_the_settings_switch_it_on(fresh_redis: str) -> None:
    """Before Redis; in a Cluster it is refused with a sentence, and memory is near already."""
    assert isinstance(_parts.build(Settings(cache_url=fresh_redis, cache_near_max_bytes=10**6)).store, NearStore)
    assert isinstance(_parts.build(Settings(cache_url=fresh_redis)).store, RedisStore)
    assert isinstance(_parts.build(Settings(cache_near_max_bytes=10**6)).store, MemoryStore)
    with pytest.raises(ConfigurationError, match="near cache goes with one Redis"):
        _parts.build(Settings(cache_url="redis+cluster://127.0.0.1:1", cache_near_max_bytes=10**6))


def _near(url: str, *, max_stale_s: float = 5.0) -> NearStore:
    store = open_url(url, max_bytes=0)
    assert isinstance(store, RedisStore)
    return NearStore(store, max_bytes=10**6, max_stale_s=max_stale_s)


class _Process:
    """The worker beside this file, as `async with`."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Other:
        worker = Path(__file__).with_name("near_worker.py")
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


async def _until(condition: Callable[[], bool], *, within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def _until_near(near: NearStore, key: str, *, within_s: float = 20) -> None:
    """Fetch until it is kept: a push of an earlier write, or an outage, may come between."""
    async with asyncio.timeout(within_s):
        while not (await near.synchronize() and await _fetched(near, key) and near.peek([key])):
            await asyncio.sleep(0.01)


async def _written(near: NearStore, key: str) -> bool:
    try:
        await near.set(key, b"2")
    except Exception:
        return False
    return True


async def _fetched(near: NearStore, key: str) -> bool:
    try:
        return await near.fetch([key]) != [None]
    except Exception:
        return False
