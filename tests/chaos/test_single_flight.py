"""One generation per key in four processes, over a real Redis and over a file of one host."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from redis.asyncio import Redis
from tests.chaos.site import ROOT
from tests.servers import RedisServer

LEASE_S = 1.5
TIMEOUT_S = 60.0
# Allowed in addition to the lease: the claim, and the start of a run on a busy machine.
TAKEOVER_S = 0.5


class Worker:
    """A process with its own forge."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid
        self._ahead: list[dict[str, Any]] = []

    def order(self, **facts: Any) -> Self:
        """Make the worker generate or follow."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(facts).encode() + b"\n")
        return self

    async def receive(self, event: str) -> dict[str, Any]:
        """Return the next line of this kind; keep all others for later."""
        for number, facts in enumerate(self._ahead):
            if facts["event"] == event:
                return self._ahead.pop(number)
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            facts = json.loads(line)
            if facts["event"] == event:
                return dict(facts)
            self._ahead.append(facts)
        raise AssertionError(f"worker {self.pid} ended without {event!r}: {self._ahead}")

    async def close(self) -> dict[str, float]:
        """Stop the worker and return its metrics."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        lines = (await self.receive("closed"))["metrics"]
        return {line.partition("{")[0].partition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


class Site:
    """Workers that share a cache or a folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._stack = AsyncExitStack()

    async def start(self, count: int, *, lease_s: float = LEASE_S) -> list[Worker]:
        """Start and return `count` more workers."""
        workers = await asyncio.gather(*(self._start(lease_s) for _ in range(count)))
        await asyncio.gather(*(worker.receive("open") for worker in workers))
        return list(workers)

    @property
    def executions(self) -> list[int]:
        """Return the process ids of the workers that ran the pipeline."""
        path = self._folder / "executions"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async def _start(self, lease_s: float) -> Worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.single_flight_worker", self._url, str(self._folder), str(lease_s)),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

        async def end() -> None:
            if process.returncode is None:
                process.kill()
            await process.communicate()

        self._stack.push_async_callback(end)
        return Worker(process)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


pytestmark = pytest.mark.slow


@pytest.fixture(params=["redis", "file"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """Workers with and without Redis."""
    url = request.getfixturevalue("fresh_redis") if request.param == "redis" else "memory://"
    async with asyncio.timeout(TIMEOUT_S), Site(url, tmp_path) as made:
        yield made


@asynccontextmanager
async def redis_site(redis_server: RedisServer, folder: Path) -> AsyncIterator[Site]:
    """Workers over a Redis that the test may kill."""
    async with asyncio.timeout(TIMEOUT_S), Site(redis_server.url, folder) as made:
        yield made


async def test_four_processes_with_fifty_callers_generate_once(site: Site) -> None:
    """200 equal requests: one execution, one charge, and an answer for every caller."""
    workers = await site.start(4)
    for worker in workers:
        worker.order(callers=50, run_s=1.0)
    ends = [await worker.receive("answered") for worker in workers]
    sources = [end["sources"] for end in ends]
    assert len(site.executions) == 1
    assert sum(source.get("L4", 0) for source in sources) == 1
    assert sum(source.get("collapsed", 0) for source in sources) == 199, sources
    assert {code for end in ends for code in end["codes"]} == {f"made by {site.executions[0]}"}
    assert {tuple(money) for end in ends for money in end["money"]} == {("0.42", "0"), ("0", "0.42")}


async def test_a_killed_holder_is_replaced_within_its_lease(site: Site) -> None:
    """The second of two executions starts within the lease and half a second."""
    holder, *others = await site.start(4)
    holder.order(callers=50, run_s=30)
    await holder.receive("runs")
    for worker in others:
        worker.order(callers=50, run_s=0.5)
    # After the first renewal, when the lease has its full length.
    await asyncio.sleep(LEASE_S / 2)
    holder.process.kill()
    killed_at = asyncio.get_running_loop().time()
    begins = [asyncio.ensure_future(worker.receive("runs")) for worker in others]
    await asyncio.wait(begins, return_when=asyncio.FIRST_COMPLETED)
    taken_s = asyncio.get_running_loop().time() - killed_at
    for begin in begins:
        begin.cancel()
    await asyncio.wait(begins)
    ends = [await worker.receive("answered") for worker in others]
    print(f"takeover after {taken_s:.3f} s of a lease of {LEASE_S} s")
    assert len(site.executions) == 2
    assert taken_s <= LEASE_S + TAKEOVER_S
    assert {code for end in ends for code in end["codes"]} == {f"made by {site.executions[1]}"}


async def test_the_late_write_of_a_paused_holder_is_refused(site: Site) -> None:
    """It resumes after its lease expired and another process has answered."""
    holder, other = await site.start(2)
    holder.order(run_s=LEASE_S + 0.3)
    await holder.receive("runs")
    os.kill(holder.pid, signal.SIGSTOP)
    other.order(run_s=0.2)
    end = await other.receive("answered")
    os.kill(holder.pid, signal.SIGCONT)
    late = await holder.receive("answered")
    assert (end["sources"], late["sources"]) == ({"L4": 1}, {"L4": 1})
    other.order(run_s=0.2)
    assert (await other.receive("answered"))["codes"] == [f"made by {other.pid}"]
    assert (await holder.close())["forge_flight_fenced_total"] == 1
    assert (await other.close())["forge_flight_takeovers_total"] == 1
    assert site.executions == [holder.pid, other.pid]


async def test_a_paused_holder_continues_without_a_takeover(site: Site) -> None:
    """Its lease has expired, but its fence is the newest."""
    (holder,) = await site.start(1)
    holder.order(run_s=LEASE_S + 0.3)
    await holder.receive("runs")
    os.kill(holder.pid, signal.SIGSTOP)
    await asyncio.sleep(LEASE_S + 0.2)
    os.kill(holder.pid, signal.SIGCONT)
    await holder.receive("answered")
    holder.order(run_s=0.1)
    assert (await holder.receive("answered"))["sources"] == {"L1": 1}


@pytest.mark.parametrize(("error", "seen"), [("forge", "ServiceUnavailable"), ("other", "GenerationFailed")])
async def test_a_failure_is_not_repeated_in_another_process(site: Site, error: str, seen: str) -> None:
    """Every waiting caller gets the error; a later caller starts a new run."""
    first, second = await site.start(2)
    first.order(callers=20, run_s=0.8, error=error)
    await first.receive("runs")
    second.order(callers=20, run_s=0.1)
    assert list((await first.receive("answered"))["sources"].values()) == [20]
    assert (await second.receive("answered"))["sources"] == {seen: 20}
    assert len(site.executions) == 1
    second.order(run_s=0.1)
    assert (await second.receive("answered"))["sources"] == {"L4": 1}


async def test_a_late_follower_in_another_process_gets_all_events(site: Site) -> None:
    """It gets the same events as a follower in the same process, and can resume after any."""
    first, second = await site.start(2)
    first.order(run_s=1.0).order(follow=True)
    await first.receive("runs")
    await asyncio.sleep(0.5)
    second.order(follow=True)
    here, there = await first.receive("followed"), await second.receive("followed")
    assert here["kinds"] == ["started", "step_started", "model_call", "step_ended", "done"]
    assert (there["kinds"], there["ids"]) == (here["kinds"], here["ids"])
    second.order(follow=True, after=here["ids"][2])
    assert (await second.receive("followed"))["kinds"] == ["step_ended", "done"]


@pytest.mark.parametrize("outage", [RedisServer.kill, RedisServer.pause])
async def test_without_redis_each_process_generates_once(
    redis_server: RedisServer, tmp_path: Path, outage: Any
) -> None:
    """No caller gets an error, and 50 callers of one process still cause one execution."""
    async with redis_site(redis_server, tmp_path) as site:
        workers = await site.start(2)
        await asyncio.to_thread(outage, redis_server)
        for worker in workers:
            worker.order(callers=50, run_s=0.3)
        ends = [await worker.receive("answered") for worker in workers]
        assert [end["sources"] for end in ends] == [{"L4": 1, "collapsed": 49}] * 2
        assert sorted(site.executions) == sorted(worker.pid for worker in workers)
        if outage is RedisServer.pause:
            await asyncio.to_thread(redis_server.resume)


async def forget_leases(url: str) -> None:
    """Delete the leases as an eviction may; entries and tag versions stay."""
    async with Redis.from_url(url) as client:
        keys = [key async for key in client.scan_iter("forge:flight:*")]
        assert keys
        await client.delete(*keys)


async def test_redis_may_restart_during_a_run(redis_server: RedisServer, tmp_path: Path) -> None:
    """It loses lease and fence; the holder renews them, and other processes continue to wait."""
    async with redis_site(redis_server, tmp_path) as site:
        first, second = await site.start(2, lease_s=3.0)
        first.order(run_s=4.0)
        await first.receive("runs")
        await asyncio.to_thread(redis_server.kill)
        await asyncio.to_thread(redis_server.start)
        await forget_leases(redis_server.url)
        await asyncio.sleep(2.0)
        second.order(run_s=0.1)
        assert (await first.receive("answered"))["sources"] == {"L4": 1}
        assert (await second.receive("answered"))["sources"] == {"collapsed": 1}
        assert site.executions == [first.pid]
