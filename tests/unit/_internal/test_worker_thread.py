"""Daemon threads for queued items and for single blocking calls."""

import asyncio
import threading

import pytest

from forge_otel._internal.worker_thread import WorkerThread, run_in_daemon_thread


class PanicError(BaseException):
    """Stand-in for the PanicException of a Rust extension."""


@pytest.mark.parametrize("error", [ValueError("handled anyway"), PanicError("handled anyway")])
def test_items_are_handled_in_order_and_a_failing_batch_does_not_end_the_thread(error: BaseException) -> None:
    """Each item is handled once, items queued before `stop` included."""
    handled: list[int] = []
    ended = threading.Event()

    def handle(batch: list[int]) -> None:
        handled.extend(batch)
        if 99 in handled:
            ended.set()
        raise error

    thread = WorkerThread("test", handle)
    thread.start()
    for number in range(100):
        thread.put(number)
    thread.stop()
    assert ended.wait(5)
    assert handled == list(range(100))


async def test_a_blocking_call_returns_its_result_or_raises() -> None:
    """The call runs in a daemon thread of the given name."""

    def fail() -> None:
        raise LookupError("no such thing")

    def describe() -> tuple[str, bool]:
        thread = threading.current_thread()
        return thread.name, thread.daemon

    assert await run_in_daemon_thread(describe, name="mine") == ("mine", True)
    with pytest.raises(LookupError):
        await run_in_daemon_thread(fail, name="mine")


async def test_a_cancelled_caller_abandons_the_call() -> None:
    """The late result of the thread is ignored."""
    proceed = threading.Event()
    task = asyncio.create_task(run_in_daemon_thread(proceed.wait, name="mine"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proceed.set()
    await asyncio.sleep(0.05)


async def test_a_blocking_call_that_panics_raises_in_its_caller() -> None:
    """A BaseException of the thread reaches its caller."""

    def fail() -> None:
        raise PanicError("x")

    with pytest.raises(PanicError):
        await asyncio.wait_for(run_in_daemon_thread(fail, name="test"), 5)
