"""Writes continue in the background, with bounded concurrency and a bounded queue."""

import asyncio
from functools import partial
from typing import Any

import pytest

from forge_otel import Forge, Settings
from forge_otel.layers.exact.write_behind import WriteBehindQueue
from forge_otel.resilience.event_loop_lag import LoopLagMonitor
from forge_otel.resilience.time_budget import TimeBudget, current_time_budget


async def test_a_write_continues_after_the_callers_time_budget() -> None:
    """The caller learns that the write is not confirmed; the write is done when the queue closes."""
    current_time_budget.set(TimeBudget(0.01, LoopLagMonitor()))
    may_end = asyncio.Event()
    written: list[int] = []

    async def write(number: int = 0) -> bool:
        await may_end.wait()
        written.append(number)
        return True

    async with WriteBehindQueue() as queue:
        assert not await queue.write(write)
        assert written == []
        may_end.set()
    assert written == [0]


async def test_a_hanging_write_does_not_block_closing(caplog: pytest.LogCaptureFixture) -> None:
    """It is cancelled and logged as dropped."""
    current_time_budget.set(TimeBudget(0.01, LoopLagMonitor()))

    async def write() -> bool:
        await asyncio.Event().wait()
        return True

    async with asyncio.timeout(30), WriteBehindQueue(close_timeout_s=0.01) as queue:
        task = queue.start(write)
    assert task is not None
    await asyncio.wait([task])
    assert task.cancelled()
    assert "cache writes dropped at close, not finished in time: 1" in caplog.text


async def test_a_closing_forge_waits_for_background_writes() -> None:
    """They finish before the store closes."""
    keys = "a", "b"
    settings = Settings(cache_url="memory://", vector_url=None, archive_url=None, database_url=None, outbox_dir=None)
    async with Forge(settings) as forge:
        may_end = asyncio.Event()

        async def write(key: str) -> bool:
            await may_end.wait()
            await forge.components.store.set(key, b"1")
            return True

        for key in keys:
            forge.exact.write_behind.start(partial(write, key))
        asyncio.get_running_loop().call_later(0.05, may_end.set)
    assert await forge.components.store.get(keys) == [b"1", b"1"]


async def test_a_caller_with_time_left_gets_the_result_of_the_write() -> None:
    """Success and failure."""
    current_time_budget.set(TimeBudget(60.0, LoopLagMonitor()))

    async def write(is_written: bool) -> bool:
        await asyncio.sleep(0)
        return is_written

    queue = WriteBehindQueue()
    assert [await queue.write(lambda end=end: write(end)) for end in (True, False)] == [True, False]


async def test_concurrency_and_queue_are_bounded() -> None:
    """Of 25 writes 8 run at a time, 12 wait, and 5 are dropped."""
    current_time_budget.set(TimeBudget(0.01, LoopLagMonitor()))
    may_end = asyncio.Event()
    running: list[Any] = []

    async def write() -> bool:
        running.append(None)
        await may_end.wait()
        return True

    async with WriteBehindQueue(max_pending=20) as queue:
        started = [queue.start(write) for _ in range(25)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert (started.count(None), len(running)) == (5, 8)
        may_end.set()
    assert len(running) == 20
