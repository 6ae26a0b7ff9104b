"""The launcher itself: servers that speak, stop, crash, freeze and come back, and leave nothing behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aioboto3
import asyncpg
import httpx
import pytest
import redis.asyncio
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError
from redis.exceptions import RedisError
from tests.conftest import running, unavailable
from tests.servers import PostgresServer, RedisServer, S3Server, Server, ServerFailed, watchdog
from tests.servers.process import free_port, is_open_to_all, wait_until
from tests.servers.watchdog import is_running, stat_fields

ROOT = Path(__file__).resolve().parent.parent
KINDS: list[type[Server]] = [RedisServer, PostgresServer, S3Server]


def libpq(url: str) -> str:
    """The URL in the form that asyncpg itself takes."""
    return url.replace("postgresql+asyncpg://", "postgresql://")


def children(pid: int) -> list[int]:
    """Processes that have this one as parent."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [child for child in pids if (fields := stat_fields(child)) and int(fields[1]) == pid]


@contextlib.asynccontextmanager
async def redis_client(url: str) -> AsyncIterator[Any]:
    """A client with short timeouts and no retries."""
    client = redis.asyncio.from_url(url, socket_timeout=0.3, retry=None)
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def s3_client(endpoint: str) -> AsyncIterator[Any]:
    """A client with the credentials of the test environment."""
    # The SDK would sign links for such an endpoint as it did before 2014.
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    async with aioboto3.Session().client("s3", endpoint_url=endpoint, config=config) as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stopped_server_leaves_no_process_and_no_folder(kind: type[Server]) -> None:
    """The context manager ends its processes, children included."""
    with running(kind) as server:
        pids = [server.pid, *children(server.pid)]
        folder = server.folder
        assert is_running(server.pid)
        assert folder.is_dir()
    assert not any(map(is_running, pids))
    assert not folder.exists()


async def test_servers_start_together_without_blocking_the_loop() -> None:
    """`async with` starts in threads; the servers outlive the threads that started them."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    heart = asyncio.create_task(beat())
    async with RedisServer() as one, RedisServer() as other:
        assert one.port != other.port
        assert one.pid != other.pid
        assert beats > 0
    heart.cancel()


async def test_redis_speaks_to_the_real_client(fresh_redis: str) -> None:
    """A value comes back, and the server says that it is a server."""
    async with redis_client(fresh_redis) as client:
        await client.set("key", "value")
        assert await client.get("key") == b"value"
        assert "redis_version" in await client.info("server")


@pytest.mark.parametrize("_turn", [1, 2])
async def test_fresh_redis_is_empty_each_time(fresh_redis: str, _turn: int) -> None:
    """A test does not see the data of the one before."""
    async with redis_client(fresh_redis) as client:
        assert await client.dbsize() == 0
        await client.set("left", "behind")


@pytest.mark.parametrize("_turn", [1, 2])
async def test_each_test_has_a_postgres_database_of_its_own(postgres_database: str, _turn: int) -> None:
    """A table of the same name can be made twice."""
    connection = await asyncpg.connect(libpq(postgres_database))
    try:
        await connection.execute("CREATE TABLE parts (id int PRIMARY KEY)")
        await connection.execute("INSERT INTO parts VALUES (1)")
        assert await connection.fetchval("SELECT count(*) FROM parts") == 1
    finally:
        await connection.close()


async def test_postgres_errors_are_raised(shared_postgres: PostgresServer) -> None:
    """A statement that fails says why."""
    with pytest.raises(ServerFailed, match="does not exist"):
        shared_postgres.execute("DROP DATABASE nowhere")


async def test_s3_speaks_to_the_real_client(s3_endpoint: str) -> None:
    """An object comes back."""
    async with s3_client(s3_endpoint) as client:
        await client.create_bucket(Bucket="launcher")
        await client.put_object(Bucket="launcher", Key="a", Body=b"content")
        answer = await client.get_object(Bucket="launcher", Key="a")
        async with answer["Body"] as body:
            assert await body.read() == b"content"


@pytest.mark.strict_s3
@pytest.mark.parametrize("s3_endpoint", ["versitygw"], indirect=True)
async def test_the_strict_s3_is_strict(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict server refuses a wrong digest, a changed or expired link and a wrong secret; the emulator does not."""
    async with s3_client(s3_endpoint) as client, httpx.AsyncClient() as plain:
        await client.create_bucket(Bucket="strict")
        await client.put_object(Bucket="strict", Key="a", Body=b"content")
        with pytest.raises(ClientError, match="BadDigest"):
            await client.put_object(Bucket="strict", Key="b", Body=b"content", ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
        target = {"Bucket": "strict", "Key": "a"}
        link = await client.generate_presigned_url("get_object", Params=target, ExpiresIn=2)
        assert (await plain.get(link)).content == b"content"
        assert (await plain.get(link.replace("/strict/a", "/strict/c"))).status_code == 403
        async with asyncio.timeout(10):
            while (await plain.get(link)).status_code != 403:
                await asyncio.sleep(0.1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    async with s3_client(s3_endpoint) as client:
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await client.list_buckets()


async def test_a_paused_redis_hangs_and_a_resumed_one_answers(redis_server: RedisServer) -> None:
    """Pausing gives time-outs, not refusals."""
    async with redis_client(redis_server.url) as client:
        await client.set("key", "value")
        redis_server.pause()
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.get("key")
        redis_server.resume()
        assert await client.get("key") == b"value"


async def test_a_killed_redis_comes_back_with_port_and_data(redis_server: RedisServer) -> None:
    """A crash refuses connections; a start has what was answered."""
    url, pid = redis_server.url, redis_server.pid
    async with redis_client(url) as client:
        await client.set("key", "value")
        redis_server.kill()
        with pytest.raises(RedisError):
            await client.get("key")
        redis_server.start()
        assert redis_server.url == url
        assert redis_server.pid != pid
        assert await client.get("key") == b"value"


async def test_a_postgres_survives_pause_kill_and_restart(postgres_server: PostgresServer) -> None:
    """A frozen server answers no connection, not even an open one; a crashed one recovers."""
    url = libpq(postgres_server.url)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE parts AS SELECT 7 AS id")
    postgres_server.pause()
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT id FROM parts", timeout=0.3)
    postgres_server.resume()
    connection.terminate()
    postgres_server.kill()
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(url)
    postgres_server.start()
    postgres_server.restart()
    again = await asyncpg.connect(url)
    assert await again.fetchval("SELECT id FROM parts") == 7
    await again.close()


async def test_s3_comes_back_on_its_port(s3_server: S3Server) -> None:
    """The data of the emulator is in memory, its port stays."""
    url = s3_server.url
    s3_server.kill()
    s3_server.start()
    async with s3_client(url) as client:
        assert (await client.list_buckets())["Buckets"] == []


def test_a_paused_server_can_be_stopped() -> None:
    """Leaving the context does not wait for a frozen process."""
    begun = time.monotonic()
    with running(RedisServer) as server:
        server.pause()
        pid = server.pid
    assert not is_running(pid)
    assert time.monotonic() - begun < 5


def test_another_server_is_left_alone(tmp_path: Path) -> None:
    """A redis-server that was started elsewhere survives stop, kill and the end of ours."""
    with running(RedisServer) as ours:
        binary = ours.command()[0]
        port = str(free_port())
        theirs = subprocess.Popen([binary, "--port", port, "--save", "", "--dir", tmp_path], stdout=subprocess.DEVNULL)
        try:
            ours.restart()
            ours.kill()
            ours.start()
        finally:
            survived = theirs.poll() is None
            theirs.terminate()
            theirs.wait()
    assert survived


def test_a_server_that_cannot_start_shows_its_log() -> None:
    """The error carries the server's own words."""

    class Misconfigured(RedisServer):
        def command(self) -> list[str | Path]:
            return [*super().command(), "--no-such-option", "1"]

    with pytest.raises(ServerFailed, match="no-such-option"), running(Misconfigured):
        pass


def test_a_taken_port_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """When another process takes the port between finding and binding it, the next one is tried."""
    with running(RedisServer) as first:
        offered = iter([first.port, free_port()])
        monkeypatch.setattr("tests.servers.process.free_port", lambda: next(offered))
        with running(RedisServer) as second:
            assert second.port != first.port


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_survives_a_killed_test_process(kind: type[Server]) -> None:
    """`kill -9` to the test process ends its servers and removes their folders."""
    script = f"""
        import time
        from tests.conftest import running, unavailable
        from tests.servers import {kind.__name__}
        with running({kind.__name__}) as server:
            print(server.pid, server.folder, flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().rstrip("\n").split(" ", 1)
        family = [int(pid), *children(int(pid))]
        assert is_running(int(pid))
        process.kill()
    wait_until(lambda: not any(map(is_running, family)), "the server to be gone", 10)
    wait_until(lambda: not Path(folder).exists(), "its folder to be gone", 10)


def test_a_folder_below_a_closed_one_is_not_open_to_all(tmp_path: Path) -> None:
    """This decides whether PostgreSQL, as an unprivileged user, needs a copy of its files."""
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    assert not is_open_to_all(closed / "inner")
    assert is_open_to_all(Path("/usr/bin"))


def test_the_watchdog_leaves_a_reused_process_id_alone() -> None:
    """A process that is younger than its entry on the list has a reused pid."""
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        watchdog.end({stranger.pid: (signal.SIGTERM, "1"), os.getpid(): (signal.SIGTERM, "")})
        assert stranger.poll() is None
        stranger.kill()


LEAKS = """
import asyncio, threading, time
import pytest
from hypothesis import given, strategies
from tests.conftest import running, unavailable
from tests.servers import RedisServer, ServerMissing

class NoServer(RedisServer):
    def __init__(self):
        raise ServerMissing("no such thing")

async def test_leaves_a_task():
    test_leaves_a_task.kept = asyncio.create_task(asyncio.sleep(60))

def test_leaves_a_thread():
    threading.Thread(target=time.sleep, args=(4,)).start()

async def test_leaves_nothing():
    await asyncio.to_thread(time.sleep, 0)
    task = asyncio.create_task(asyncio.sleep(0.1))

@given(strategies.integers())
async def test_leaves_nothing_many_times(number):
    await asyncio.sleep(0)

def test_has_no_server():
    with running(NoServer):
        pass
"""


def test_leaks_are_seen_and_missing_servers_skipped(tmp_path: Path) -> None:
    """The fixtures that watch every test fail the ones that leak, and only those."""
    module = tmp_path / "test_leaks.py"
    module.write_text(LEAKS)
    options = ["-c", "pyproject.toml", "--rootdir", ".", "-p", "tests.conftest"]
    command = [sys.executable, "-m", "pytest", *options, str(module)]
    outside_ci = {name: value for name, value in os.environ.items() if name != "CI"}
    answer = subprocess.run(command, cwd=ROOT, env=outside_ci, capture_output=True, text=True, check=False)
    assert "4 passed, 1 skipped, 2 errors" in answer.stdout, answer.stdout
    assert "the test left tasks running" in answer.stdout
    assert "the test left threads running" in answer.stdout
    assert "no such thing" in answer.stdout


def test_what_is_missing_fails_where_it_has_to_be_there() -> None:
    """Under CI a missing server is no reason to pass."""
    with pytest.raises(pytest.fail.Exception, match="no redis"):
        unavailable("no redis", is_failure=True)
