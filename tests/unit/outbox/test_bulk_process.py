"""The parent's side of the bulk load process, without a database."""

import sys
from pathlib import Path

import pytest

from forge_otel.outbox.bulk_process import BulkProcess

NOWHERE = {"host": "127.0.0.1", "port": 1, "user": "none", "timeout": 1}


async def test_an_unreachable_database_is_reported() -> None:
    """The process starts, says why it cannot connect, and ends."""
    process = BulkProcess(NOWHERE)
    process.start()

    started, failed = [await process.receive(timeout_s=30) for _ in range(2)]

    assert started is not None
    assert failed is not None
    assert started["started"] > 0
    assert "ConnectionRefusedError" in failed["failed"]
    assert await process.receive(timeout_s=30) is None


async def test_a_missing_interpreter_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that is frozen into one file has no interpreter to start."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "application"))
    process = BulkProcess(NOWHERE)
    process.start()

    message = await process.receive(timeout_s=30)

    assert message is not None
    assert "is not a Python interpreter" in message["impossible"]
    assert await process.receive(timeout_s=30) is None


async def test_a_killed_process_ends_the_messages() -> None:
    """`kill` works before the process is visible to its parent, too."""
    process = BulkProcess(NOWHERE)
    process.start()

    process.kill()

    messages = [await process.receive(timeout_s=30)]
    while messages[-1] is not None:
        messages.append(await process.receive(timeout_s=30))
    assert all("failed" not in message for message in messages if message is not None)
