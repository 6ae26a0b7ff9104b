"""Leases in a file keep the contract, and the file keeps its place."""

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
    """In a folder that is not there yet."""
    return tmp_path / "new" / "flights.db"


@pytest.fixture
async def leases(path: Path) -> AsyncIterator[SQLiteLeases]:
    """In a file of the test's own."""
    async with SQLiteLeases(path) as opened:
        yield opened


class TestSQLiteLeases(LeasesContract):
    """The contract of all leases."""


class Clock:
    """Stands still until it is set."""

    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def test_an_answer_is_handed_over_to_those_who_waited(leases: SQLiteLeases) -> None:
    """Whoever asks later makes a new one: this one may have been invalidated since."""
    lease = await leases.acquire("k", "t", ttl_s=9, waited_s=0)
    assert isinstance(lease, Lease)
    await leases.commit(lease, b"answer", ttl_s=None)
    assert await leases.fetch("k", within_s=30) == b"answer"
    await asyncio.sleep(0.02)
    assert await leases.fetch("k", within_s=0.01) is None


async def test_the_file_does_not_grow(path: Path) -> None:
    """Answers, events and leases are forgotten, and a fence is higher all the same."""
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


async def test_a_clock_that_is_set_back_holds_nobody_up(path: Path) -> None:
    """A lease that seems to last longer than its TTL is free."""
    clock = Clock()
    async with SQLiteLeases(path, clock=clock) as leases:
        await leases.acquire("k", "1", ttl_s=9, waited_s=0)
        clock.now_s -= 3600
        assert isinstance(await leases.acquire("k", "2", ttl_s=9, waited_s=0), Lease)


async def test_two_openings_of_one_file_share_it(path: Path) -> None:
    """As two workers do; and it is for its owner alone."""
    async with SQLiteLeases(path) as a, SQLiteLeases(path) as b:
        assert isinstance(await a.acquire("k", "1", ttl_s=9, waited_s=0), Lease)
        assert isinstance(await b.acquire("k", "2", ttl_s=9, waited_s=0), LeaseHeld)
    assert path.stat().st_mode & 0o077 == 0


async def test_a_file_that_is_none_is_an_error(path: Path) -> None:
    """Whoever asks goes on alone then; nothing is left open."""
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 1000)
    async with SQLiteLeases(path) as leases:
        with pytest.raises(sqlite3.DatabaseError):
            await leases.acquire("k", "1", ttl_s=9, waited_s=0)
