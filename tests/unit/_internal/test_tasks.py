"""Background tasks restart after an error, and hard time limits hold."""

import asyncio

import pytest

from forge_otel._internal import tasks
from forge_otel._internal.tasks import BackgroundTask, TaskSet, TaskSupervisor, abandon_after


class PanicError(BaseException):
    """Like the PanicException of a Rust extension, it is no Exception."""


async def until(condition: asyncio.Event) -> None:
    """Fail after 5 s."""
    await asyncio.wait_for(condition.wait(), 5)


@pytest.mark.parametrize("error", [ValueError("x"), PanicError("x")])
async def test_a_task_whose_work_raises_is_restarted(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """The restart is counted and logged, also where the error is no Exception."""
    second = asyncio.Event()
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error
        second.set()
        await asyncio.Event().wait()

    task = BackgroundTask(work, name="worker")
    task.start()
    await until(second)
    assert (task.restarts, task.last_error, task.is_running) == (1, type(error).__name__, True)
    assert "background task worker failed" in caplog.text
    assert await task.stop()
    assert not task.is_running


@pytest.mark.parametrize("error", [ValueError("x"), PanicError("x"), asyncio.CancelledError()])
async def test_a_supervisor_counts_restarts_and_names_the_failing_tasks(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that are started by a watched task are watched too; one that stays up is no longer failing."""
    monkeypatch.setattr(tasks, "_STABLE_S", 0.2)
    restarted = asyncio.Event()
    calls = 0

    async def fail_twice() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise error
        restarted.set()
        await asyncio.Event().wait()

    inner = BackgroundTask(fail_twice, name="inner")

    async def start_inner() -> None:
        inner.start()
        await asyncio.Event().wait()

    supervisor, outer = TaskSupervisor(), BackgroundTask(start_inner, name="outer")
    with supervisor.watching():
        outer.start()
    await until(restarted)
    assert supervisor.restarts == {"inner": 2}
    assert supervisor.failing() == {"inner": type(error).__name__}
    await asyncio.sleep(0.6)
    assert supervisor.failing() == {}
    assert await inner.stop()
    assert await outer.stop()


async def test_work_that_returns_ends_the_task() -> None:
    """Nothing is restarted."""
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    task = BackgroundTask(work, name="worker")
    task.start()
    await until(done)
    await asyncio.sleep(0)
    assert task.restarts == 0
    assert await task.stop()


async def test_stop_says_when_a_task_ignores_its_cancellation() -> None:
    """It returns after the timeout, and the task goes on until it ends."""
    started, release = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = BackgroundTask(work, name="worker")
    task.start()
    await until(started)
    assert not await task.stop(timeout_s=0.01)
    release.set()
    await asyncio.sleep(0.01)


async def test_abandon_after_returns_the_result() -> None:
    """Within the limit nothing changes."""

    async def work() -> int:
        return 7

    assert await abandon_after(work(), timeout_s=5) == 7


async def test_abandon_after_holds_against_work_that_ignores_cancellation() -> None:
    """`asyncio.timeout` would never return."""
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(TimeoutError):
        await abandon_after(stubborn(), timeout_s=0.01)
    release.set()
    await asyncio.sleep(0.01)


async def test_work_that_cancels_itself_times_out() -> None:
    """A CancelledError of the work must not look like a cancellation of the caller."""

    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(TimeoutError):
        await abandon_after(work(), timeout_s=5)


async def test_a_task_set_holds_tasks_until_they_end() -> None:
    """A finished task leaves the set."""
    tasks: TaskSet[int] = TaskSet()
    may_end = asyncio.Event()

    async def work() -> int:
        await may_end.wait()
        return 1

    task = tasks.hold(asyncio.create_task(work()))
    assert tasks == {task}
    may_end.set()
    assert await task == 1
    await asyncio.sleep(0)
    assert not tasks
