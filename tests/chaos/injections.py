"""Injection of each fault of the matrix: an asynchronous context manager for each cell, which ends the fault."""

import asyncio
import random
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
from tests.chaos.site import Site, turn_clock

from forge_otel.testing.faults.proxy import CutOff, Fault, Garbage, HttpAnswer, Refuse, Silent, Slow

__all__ = ["AT_START", "INJECTIONS", "locked", "refused_by_redis"]

HOUR_S: Final = 3600.0
LATE_S: Final = 0.03
MODEL_LATE_S: Final = 0.5
CUT_AFTER_BYTES: Final = 4_000
CUT_SHORT_BYTES: Final = 100
EXPORT_BUSY: Final = HttpAnswer.too_many_requests(retry_after_s=5)
# Cut before the status: after it, the spans are known to be accepted.
EXPORT_CUT: Final = CutOff(after_bytes=8)
FIGMA_LATE_S: Final = 0.2
FIGMA_CUT_AFTER_BYTES: Final = 300
DISK_BYTES: Final = 40_000
BURST_S: Final = 0.1
PAUSE_S: Final = 0.2
REDIS_PASSWORD: Final = "secret"
S3_LATE_S: Final = 0.5
S3_CUT_AFTER_BYTES: Final = 100


def s3_error(status: int, code: str) -> HttpAnswer:
    """Return an error in S3's format."""
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return HttpAnswer(status=status, body=body, content_type="application/xml")


S3_DENIED: Final = s3_error(403, "AccessDenied")
S3_FULL: Final = s3_error(507, "InsufficientCapacity")

Injection = Callable[[Site], AbstractAsyncContextManager[Any]]


async def command(site: Site, *lines: str, password: str = "") -> bytes:
    """Send commands to Redis past the proxy and return its last reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.redis.port)
    try:
        reply = b""
        for line in [f"AUTH {password}"] * bool(password) + list(lines):
            writer.write(f"{line}\r\n".encode())
            reply = await reader.readline()
        return reply
    finally:
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def refused_by_redis(site: Site) -> AsyncIterator[None]:
    """Redis requires a password that the service does not have, and closes its connections."""
    await command(site, f"CONFIG SET requirepass {REDIS_PASSWORD}", "CLIENT KILL TYPE normal SKIPME yes")
    try:
        yield
    finally:
        await command(site, 'CONFIG SET requirepass ""', password=REDIS_PASSWORD)


@asynccontextmanager
async def redis_is_full(site: Site) -> AsyncIterator[None]:
    """Redis is out of memory and does not evict."""
    await command(site, "CONFIG SET maxmemory 1")
    try:
        yield
    finally:
        await command(site, "CONFIG SET maxmemory 0")


@asynccontextmanager
async def redis_crashes(site: Site) -> AsyncIterator[None]:
    """Redis is killed and restarted."""
    await asyncio.to_thread(site.redis.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(site.redis.start)


@asynccontextmanager
async def postgres_statements(site: Site, before: Sequence[str], after: Sequence[str]) -> AsyncIterator[None]:
    """Execute statements past the proxy before the block, and others on the same connection after it."""
    assert site.row.postgres is not None
    connection = await asyncpg.connect(site.row.postgres.url.replace("+asyncpg", ""))
    try:
        for statement in before:
            await connection.execute(statement)
        try:
            yield
        finally:
            for statement in after:
                await connection.execute(statement)
    finally:
        await connection.close()


def refused_by_postgres(site: Site) -> AbstractAsyncContextManager[None]:
    """PostgreSQL rejects logins and terminates the sessions of the service."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forge-otel'"
    return postgres_statements(site, ["ALTER ROLE postgres NOLOGIN", others], ["ALTER ROLE postgres LOGIN"])


def postgres_is_full(site: Site) -> AbstractAsyncContextManager[None]:
    """PostgreSQL rejects writes with the error of a full disk."""
    function = """
    CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$
    """
    trigger = "CREATE TRIGGER full_disk BEFORE INSERT ON generations EXECUTE FUNCTION no_room()"
    return postgres_statements(
        site, [function, trigger], ["DROP TRIGGER full_disk ON generations", "DROP FUNCTION no_room"]
    )


@asynccontextmanager
async def postgres_crashes(site: Site) -> AsyncIterator[None]:
    """PostgreSQL is killed under load and restarted."""
    assert site.row.postgres is not None
    await asyncio.to_thread(site.row.postgres.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(site.row.postgres.start)


@asynccontextmanager
async def figma_fails(site: Site, fault: Fault) -> AsyncIterator[None]:
    """Figma fails, and the cached designs have to be revalidated."""
    async with site.figma.fault(fault):
        await site.touch_designs()
        yield


@asynccontextmanager
async def wrong_clock(site: Site) -> AsyncIterator[None]:
    """The wall clock jumps one hour forward, and after a second two hours back."""
    file = Path(site.plan.clock_file)
    turn_clock(file, HOUR_S)
    back = asyncio.get_running_loop().call_later(1.0, turn_clock, file, -HOUR_S)
    try:
        yield
    finally:
        back.cancel()
        turn_clock(file, 0.0)


@asynccontextmanager
async def locked(file: Path) -> AsyncIterator[None]:
    """Another connection holds the write lock."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as database:
        database.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            database.execute("ROLLBACK")


@asynccontextmanager
async def locked_in_bursts(file: Path) -> AsyncIterator[None]:
    """Another connection holds the write lock a third of the time."""

    async def hold() -> None:
        while True:
            async with locked(file):
                await asyncio.sleep(BURST_S)
            await asyncio.sleep(PAUSE_S)

    holding = asyncio.create_task(hold())
    try:
        yield
    finally:
        holding.cancel()
        with suppress(asyncio.CancelledError):
            await holding


@asynccontextmanager
async def overwritten(file: Path) -> AsyncIterator[None]:
    """Overwrite the file with random bytes of the same length; it is not restored."""
    noise = random.Random(0)
    for path in (file, file.with_name(f"{file.name}-wal")):
        with suppress(FileNotFoundError), path.open("r+b") as content:
            content.write(noise.randbytes(path.stat().st_size))
    yield


@asynccontextmanager
async def file_in_place_of(folder: Path, site: Site) -> AsyncIterator[None]:
    """Start the service while a file is in the place of a folder; remove the file afterwards."""
    folder.rename(folder.with_name(f"{folder.name}-{time.monotonic_ns()}"))
    folder.write_text("not a folder")
    await site.start()
    try:
        yield
    finally:
        folder.unlink()


@asynccontextmanager
async def read_only(folder: Path, site: Site) -> AsyncIterator[None]:
    """Start the service while a folder is read-only; restore its permissions afterwards."""
    paths = [folder, *folder.iterdir()]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & ~0o222)
    await site.start(is_unprivileged=True)
    try:
        yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


@asynccontextmanager
async def database_is_full(site: Site) -> AsyncIterator[None]:
    """SQLite cannot allocate another page; see service.py."""
    flag = site.folder / "disk-is-full"
    flag.touch()
    try:
        yield
    finally:
        flag.unlink()


@asynccontextmanager
async def disk_is_full(site: Site) -> AsyncIterator[None]:
    """No file of the service can grow: journal, database and archive share a full disk."""
    soft, hard = resource.prlimit(site.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(site.pid, resource.RLIMIT_FSIZE, (DISK_BYTES, hard))
    try:
        yield
    finally:
        # The service may have exited meanwhile.
        with suppress(ProcessLookupError):
            resource.prlimit(site.pid, resource.RLIMIT_FSIZE, (soft, hard))


@asynccontextmanager
async def crash(site: Site) -> AsyncIterator[None]:
    """The service is killed under load and restarted with its files."""
    await site.kill()
    await site.start()
    yield


@asynccontextmanager
async def crash_with_records_waiting(site: Site) -> AsyncIterator[None]:
    """The service is killed while the database is locked, so that its records are in the journal only."""
    async with locked(site.database):
        await asyncio.sleep(1.0)
        await site.kill()
    await site.start()
    yield


AT_START: Final = frozenset(
    {("SQLite", "refused"), ("SQLite", "auth error"), ("outbox disk", "refused"), ("outbox disk", "auth error")}
)
"""Cells whose fault is injected before the service starts, because it does not affect an open file."""

INJECTIONS: Final[Mapping[tuple[str, str], Injection]] = {
    ("OpenAI", "refused"): lambda site: site.model.fault(Refuse()),
    ("OpenAI", "silent"): lambda site: site.model.fault(Silent()),
    ("OpenAI", "slow"): lambda site: site.model.fault(Slow(answer_s=MODEL_LATE_S)),
    ("OpenAI", "garbage"): lambda site: site.model.fault(Garbage()),
    ("OpenAI", "auth error"): lambda site: site.model.fault(HttpAnswer.unauthorized()),
    ("OpenAI", "full"): lambda site: site.model.fault(HttpAnswer.too_many_requests(retry_after_s=30)),
    ("OpenAI", "restart mid-write"): lambda site: site.model.fault(CutOff(after_bytes=CUT_AFTER_BYTES)),
    ("OpenAI", "clock jump"): wrong_clock,
    ("Figma", "refused"): lambda site: figma_fails(site, Refuse()),
    ("Figma", "silent"): lambda site: figma_fails(site, Silent()),
    ("Figma", "slow"): lambda site: figma_fails(site, Slow(answer_s=FIGMA_LATE_S)),
    ("Figma", "garbage"): lambda site: figma_fails(site, Garbage()),
    ("Figma", "auth error"): lambda site: figma_fails(site, HttpAnswer.unauthorized()),
    ("Figma", "full"): lambda site: figma_fails(site, HttpAnswer.too_many_requests(retry_after_s=3)),
    ("Figma", "restart mid-write"): lambda site: figma_fails(site, CutOff(after_bytes=FIGMA_CUT_AFTER_BYTES)),
    ("Figma", "clock jump"): wrong_clock,
    ("Redis", "refused"): lambda site: site.cache.fault(Refuse()),
    ("Redis", "silent"): lambda site: site.cache.fault(Silent()),
    ("Redis", "slow"): lambda site: site.cache.fault(Slow(answer_s=LATE_S)),
    ("Redis", "garbage"): lambda site: site.cache.fault(Garbage()),
    ("Redis", "auth error"): refused_by_redis,
    ("Redis", "full"): redis_is_full,
    ("Redis", "restart mid-write"): redis_crashes,
    ("Redis", "clock jump"): wrong_clock,
    ("LangSmith", "refused"): lambda site: site.row.proxies["LangSmith"].fault(Refuse()),
    ("LangSmith", "silent"): lambda site: site.row.proxies["LangSmith"].fault(Silent()),
    ("LangSmith", "slow"): lambda site: site.row.proxies["LangSmith"].fault(Slow(answer_s=MODEL_LATE_S)),
    ("LangSmith", "garbage"): lambda site: site.row.proxies["LangSmith"].fault(Garbage()),
    ("LangSmith", "auth error"): lambda site: site.row.proxies["LangSmith"].fault(HttpAnswer.unauthorized()),
    ("LangSmith", "full"): lambda site: site.row.proxies["LangSmith"].fault(EXPORT_BUSY),
    ("LangSmith", "restart mid-write"): lambda site: site.row.proxies["LangSmith"].fault(EXPORT_CUT),
    ("LangSmith", "clock jump"): wrong_clock,
    ("PostgreSQL", "refused"): lambda site: site.row.proxies["PostgreSQL"].fault(Refuse()),
    ("PostgreSQL", "silent"): lambda site: site.row.proxies["PostgreSQL"].fault(Silent()),
    ("PostgreSQL", "slow"): lambda site: site.row.proxies["PostgreSQL"].fault(Slow(answer_s=LATE_S)),
    ("PostgreSQL", "garbage"): lambda site: site.row.proxies["PostgreSQL"].fault(Garbage()),
    ("PostgreSQL", "auth error"): refused_by_postgres,
    ("PostgreSQL", "full"): postgres_is_full,
    ("PostgreSQL", "restart mid-write"): postgres_crashes,
    ("PostgreSQL", "clock jump"): wrong_clock,
    ("Qdrant", "refused"): lambda site: site.row.proxies["Qdrant"].fault(Refuse()),
    ("Qdrant", "silent"): lambda site: site.row.proxies["Qdrant"].fault(Silent()),
    ("Qdrant", "slow"): lambda site: site.row.proxies["Qdrant"].fault(Slow(answer_s=LATE_S)),
    ("Qdrant", "garbage"): lambda site: site.row.proxies["Qdrant"].fault(Garbage()),
    ("Qdrant", "auth error"): lambda site: site.row.proxies["Qdrant"].fault(HttpAnswer.unauthorized()),
    ("Qdrant", "full"): lambda site: site.row.proxies["Qdrant"].fault(HttpAnswer.too_many_requests(retry_after_s=30)),
    ("Qdrant", "restart mid-write"): lambda site: site.row.proxies["Qdrant"].fault(CutOff(after_bytes=CUT_SHORT_BYTES)),
    ("Qdrant", "clock jump"): wrong_clock,
    ("OTLP", "refused"): lambda site: site.row.proxies["OTLP"].fault(Refuse()),
    ("OTLP", "silent"): lambda site: site.row.proxies["OTLP"].fault(Silent()),
    ("OTLP", "slow"): lambda site: site.row.proxies["OTLP"].fault(Slow(answer_s=MODEL_LATE_S)),
    ("OTLP", "garbage"): lambda site: site.row.proxies["OTLP"].fault(Garbage()),
    ("OTLP", "auth error"): lambda site: site.row.proxies["OTLP"].fault(HttpAnswer.unauthorized()),
    ("OTLP", "full"): lambda site: site.row.proxies["OTLP"].fault(EXPORT_BUSY),
    ("OTLP", "restart mid-write"): lambda site: site.row.proxies["OTLP"].fault(EXPORT_CUT),
    ("OTLP", "clock jump"): wrong_clock,
    ("SQLite", "refused"): lambda site: file_in_place_of(site.database.parent, site),
    ("SQLite", "silent"): lambda site: locked(site.database),
    ("SQLite", "slow"): lambda site: locked_in_bursts(site.database),
    ("SQLite", "garbage"): lambda site: overwritten(site.database),
    ("SQLite", "auth error"): lambda site: read_only(site.database.parent, site),
    ("SQLite", "full"): database_is_full,
    ("SQLite", "restart mid-write"): crash,
    ("SQLite", "clock jump"): wrong_clock,
    ("S3", "refused"): lambda site: site.row.proxies["S3"].fault(Refuse()),
    ("S3", "silent"): lambda site: site.row.proxies["S3"].fault(Silent()),
    ("S3", "slow"): lambda site: site.row.proxies["S3"].fault(Slow(answer_s=S3_LATE_S)),
    ("S3", "garbage"): lambda site: site.row.proxies["S3"].fault(Garbage()),
    ("S3", "auth error"): lambda site: site.row.proxies["S3"].fault(S3_DENIED),
    ("S3", "full"): lambda site: site.row.proxies["S3"].fault(S3_FULL),
    ("S3", "restart mid-write"): lambda site: site.row.proxies["S3"].fault(CutOff(after_bytes=S3_CUT_AFTER_BYTES)),
    ("S3", "clock jump"): wrong_clock,
    ("outbox disk", "refused"): lambda site: file_in_place_of(site.folder / "outbox", site),
    ("outbox disk", "silent"): lambda site: locked(site.journal),
    ("outbox disk", "slow"): lambda site: locked_in_bursts(site.journal),
    ("outbox disk", "garbage"): lambda site: overwritten(site.journal),
    ("outbox disk", "auth error"): lambda site: read_only(site.folder / "outbox", site),
    ("outbox disk", "full"): disk_is_full,
    ("outbox disk", "restart mid-write"): crash_with_records_waiting,
    ("outbox disk", "clock jump"): wrong_clock,
}
