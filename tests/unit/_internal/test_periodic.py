"""Work at an interval."""

import asyncio
import logging

import pytest

from forge_otel._internal.periodic import Periodic


async def test_an_error_is_logged_and_the_interval_continues(caplog: pytest.LogCaptureFixture) -> None:
    """The log line has the type of the error only."""
    calls: list[int] = []

    async def work() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("password")

    periodic = Periodic(work, name="test", failing="rows could not be deleted", first_after_s=0.001, every_s=0.001)
    with caplog.at_level(logging.WARNING):
        periodic.start()
        async with asyncio.timeout(5):
            while len(calls) < 3:
                await asyncio.sleep(0.001)
        await periodic.stop()
    assert "rows could not be deleted" in caplog.text
    assert "OSError" in caplog.text
    assert "password" not in caplog.text


async def test_stopping_cancels_the_running_call() -> None:
    """No call is made afterwards."""
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    periodic = Periodic(work, name="test", failing="-", first_after_s=0.001, every_s=0.001)
    periodic.start()
    await started.wait()
    async with asyncio.timeout(1):
        await periodic.stop()
