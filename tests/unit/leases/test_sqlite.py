"""Leases in a file, and the size of the file."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forge_otel.leases.sqlite import SQLiteLeases
from forge_otel.testing.contracts.lease_contract import LeasesContract
from forge_otel.types import Event, Lease, LeaseHeld


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in a folder that does not exist yet."""
    return tmp_path / "new" / "flights.db"


@pytest.fixture
async def leases(path: Path) -> AsyncIterator[SQLiteLeases]:
    """Leases in a new file."""
    async with SQLiteLeases(path) as opened:
        yield opened


class TestSQLiteLeases(LeasesContract):
    """The contract of leases."""


class Clock:
    """A clock that is set by the test."""

    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def test_waiters_fetch_the_committed_answer(leases: SQLiteLeases) -> None:
    """A later caller does not get it, because it may have been invalidated since."""
    lease = await leases.acquire("k", "t", ttl_s=9, waited_s=0)
    assert isinstance(lease, Lease)
    await leases.commit(lease, b"answer", ttl_s=None)
    assert await leases.fetch("k", within_s=30) == b"answer"
    await asyncio.sleep(0.02)
    assert await leases.fetch("k", within_s=0.01) is None


async def test_the_file_does_not_grow(path: Path) -> None:
    """Expired answers, events and leases are deleted, and the next fence is still higher."""
    clock = Clock()
    async with SQLiteLeases(path, clock=clock) as leases:
        first = await leases.acquire("k", "t", ttl_s=9, waited_s=0)
        assert isinstance(first, Lease)
        await leases.commit(first, b"answer", ttl_s=None)
        await leases.append("k", [Event(first.fence, 1, b"e")])
        await leases.release(first)
        for hours in (1, 2):
            clock.now_s = Clock.now_s + hours * 3600
            other = await leases.acquire(f"other {hours}", "t", ttl_s=9, waited_s=0)
            assert isinstance(other, Lease)
        rows = sqlite3.connect(path).execute("SELECT (SELECT count(*) FROM leases), (SELECT count(*) FROM events)")
        assert rows.fetchone() == (1, 0)
        again = await leases.acquire("k", "t", ttl_s=9, waited_s=0)
        assert isinstance(again, Lease)
        assert again.fence > first.fence
        assert not await leases.commit(first, b"late", ttl_s=None)


async def test_a_clock_that_is_set_back_blocks_no_caller(path: Path) -> None:
    """A lease that seems to last longer than its TTL is free."""
    clock = Clock()
    async with SQLiteLeases(path, clock=clock) as leases:
        await leases.acquire("k", "1", ttl_s=9, waited_s=0)
        clock.now_s -= 3600
        assert isinstance(await leases.acquire("k", "2", ttl_s=9, waited_s=0), Lease)


async def test_two_processes_share_a_file(path: Path) -> None:
    """It is readable by its owner only."""
    async with SQLiteLeases(path) as a, SQLiteLeases(path) as b:
        assert isinstance(await a.acquire("k", "1", ttl_s=9, waited_s=0), Lease)
        assert isinstance(await b.acquire("k", "2", ttl_s=9, waited_s=0), LeaseHeld)
    assert path.stat().st_mode & 0o077 == 0


async def test_a_corrupted_file_is_an_error(path: Path) -> None:
    """The connection is closed; the caller then generates independently."""
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 1000)
    async with SQLiteLeases(path) as leases:
        with pytest.raises(sqlite3.DatabaseError):
            await leases.acquire("k", "1", ttl_s=9, waited_s=0)
