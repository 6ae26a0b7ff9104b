"""Fixtures of all tests: real servers, started with the first test that needs one, and a clean environment.

Every test is also watched: one that leaves a thread or an asyncio task behind fails.
"""

import asyncio
import inspect
import itertools
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import pytest
from scripts import collector
from tests.servers import PostgresServer, RedisServer, S3Server, Server, ServerMissing, StrictS3Server

# A developer's own settings and keys must neither change a test nor be used by one.
FOREIGN_PREFIXES = ("AWS_", "FIGMA_", "FORGE_", "LANGCHAIN_", "LANGSMITH_", "OPENAI_", "OTEL_")
AWS_FOR_TESTS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
# Programs that a marker stands for. .ci/run installs them and sets the variable, so that none is skipped there; but Go.
TOOLS = {
    "chromium": ("chromium",),
    "collector": ("go",),
    "prometheus": ("prometheus", "promtool"),
    "strict_s3": ("versitygw",),
}
# Read before the environment is cleaned, like everything that says how tests are to be run.
TOOLS_REQUIRED = bool(os.environ.get("FORGE_TEST_REQUIRE_TOOLS"))
# A machine that does other things too cannot judge limits of time; what is seen and what is lost it can.
IS_TIMED = not os.environ.get("FORGE_TEST_UNTIMED")
SERVERS_REQUIRED = bool(os.environ.get("CI"))
GRACE_S = 2.0

S = TypeVar("S", bound=Server)

database_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Clean the environment before any test module is imported: some packages read it at import."""
    for name in [name for name in os.environ if name.startswith(FOREIGN_PREFIXES)]:
        # These are for the tests themselves.
        if not name.startswith("FORGE_TEST_"):
            del os.environ[name]
    os.environ.update(AWS_FOR_TESTS)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what needs a program that this machine does not have."""
    for marker, programs in TOOLS.items():
        absent = [program for program in programs if shutil.which(program) is None]
        if absent and item.get_closest_marker(marker):
            is_failure = TOOLS_REQUIRED and absent != ["go"]
            unavailable(
                f"not on the PATH: {', '.join(absent)} (.ci/run brings it, unless it is Go)", is_failure=is_failure
            )
    if item.get_closest_marker("collector") and not collector.program().exists():
        unavailable("not built yet: make collector", is_failure=TOOLS_REQUIRED)


@pytest.fixture(scope="session")
def is_timed() -> bool:
    """Return whether this run judges limits of time."""
    return IS_TIMED


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """The Redis of the whole run; a test that stops or pauses one takes `redis_server`."""
    with running(RedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(shared_redis: RedisServer) -> str:
    """URL of the shared Redis with the data of earlier tests; most tests want `fresh_redis`."""
    return shared_redis.url


@pytest.fixture
def fresh_redis(shared_redis: RedisServer) -> str:
    """URL of the shared Redis, emptied."""
    shared_redis.flush()
    return shared_redis.url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own, to be paused, killed and restarted."""
    with running(RedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL of the whole run; a test that stops or pauses one takes `postgres_server`."""
    with running(PostgresServer) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(shared_postgres: PostgresServer) -> str:
    """SQLAlchemy URL of the shared server's first database; most tests want `postgres_database`."""
    return shared_postgres.url


@pytest.fixture
def postgres_database(shared_postgres: PostgresServer) -> Iterator[str]:
    """SQLAlchemy URL of an empty database of the test's own."""
    name = f"test_{next(database_numbers)}"
    shared_postgres.execute(f"CREATE DATABASE {name}")
    yield shared_postgres.database_url(name)
    shared_postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, to be paused, killed and restarted."""
    with running(PostgresServer) as server:
        yield server


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Endpoint URL of the shared emulator of S3; a test makes its own bucket."""
    with running(S3Server) as server:
        yield server.url


@pytest.fixture(scope="session", params=["moto", pytest.param("versitygw", marks=pytest.mark.strict_s3)])
def s3_endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """Endpoint URL of each S3 in turn: the emulator, which knows everything, and a server, which forgives nothing."""
    if request.param == "moto":
        yield request.getfixturevalue("moto_endpoint")
        return
    with running(StrictS3Server) as server:
        yield server.url


@pytest.fixture
def s3_server() -> Iterator[S3Server]:
    """An S3 of the test's own, to be paused, killed and restarted."""
    with running(S3Server) as server:
        yield server


@contextmanager
def running(kind: type[S]) -> Iterator[S]:
    """A started server; where the machine has none the test is skipped with the reason, and fails under CI."""
    try:
        server = kind()
    except ServerMissing as missing:
        unavailable(str(missing), is_failure=SERVERS_REQUIRED)
    with server:
        yield server


def unavailable(reason: str, *, is_failure: bool) -> NoReturn:
    """Skip visibly, or fail where everything has to be there."""
    if is_failure:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def leaves_no_thread() -> Iterator[None]:
    """Fail a test that leaves a thread which would keep the process alive."""
    before = set(threading.enumerate())
    yield

    def left() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]

    deadline = time.monotonic() + GRACE_S
    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    if threads := left():
        pytest.fail(f"the test left threads running: {threads}", pytrace=False)


@pytest.fixture(autouse=True)
def leaves_no_task(leaves_no_thread: None, request: pytest.FixtureRequest) -> None:
    """Watch the tasks of asynchronous tests; synchronous ones have no event loop."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("watched_tasks")


@pytest.fixture
async def watched_tasks() -> AsyncIterator[None]:
    """Fail a test that leaves an asyncio task running; closing the loop would cancel it without a word."""
    before = asyncio.all_tasks()
    yield

    def left() -> list[asyncio.Task[object]]:
        return [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]

    deadline = time.monotonic() + GRACE_S
    while left() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    if tasks := left():
        pytest.fail(f"the test left tasks running: {tasks}", pytrace=False)
