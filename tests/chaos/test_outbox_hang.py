"""A journal that hangs, then kill -9 or SIGTERM: each answered record is delivered later, or was counted and labelled.

Run as a program, this file is the service: it offers a record every few milliseconds, and writes the id of each to its
standard output once it is answered, with the label that its caller got and the number that is counted by then.
"""

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import sys
from pathlib import Path
from typing import cast

import pytest
from tests.unit.outbox.builders import is_balanced, journals
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel._internal.ids import new_id
from forge_otel.outbox.outbox import Outbox, OutboxOptions, WhenSlow

HANG_S = 3.0


def service(directory: Path, sink: ListSink, *, when_slow: WhenSlow = "answer") -> Outbox:
    """Return the outbox of the service; its only sink is unavailable before the kill."""
    options = OutboxOptions(directory=directory, max_bytes=2**26, shutdown_timeout_s=1.0, when_slow=when_slow)
    return Outbox([sink], options)


async def serve(directory: Path, when_slow: WhenSlow) -> None:
    """Offer records until SIGTERM, then close and write the final figures to standard error."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    sink = ListSink()
    sink.fault = ConnectionError("down")

    async def call() -> None:
        while not ended.is_set():
            name = new_id()
            is_safe = await box.offer(record(id=name))
            os.write(1, f"{name} {is_safe} {box.stats().unjournaled}\n".encode())
            if not is_balanced(box.stats().sinks["list"]):
                os.write(1, b"unbalanced\n")
            await asyncio.sleep(0.02)

    async with service(directory, sink, when_slow=when_slow) as box:
        calls = [asyncio.create_task(call()) for _ in range(8)]
        await ended.wait()
    await asyncio.wait(calls, timeout=1)
    # The writer thread still hangs; the process must not wait for it.
    os._exit(0)


async def run(directory: Path, when_slow: WhenSlow, ending: signal.Signals) -> tuple[list[str], str]:
    """Run the service, let its journal hang for 3 s, end the service, and return its output and its log."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(directory),
        when_slow,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    first = await process.stdout.readline()
    communicating = asyncio.create_task(process.communicate())
    await asyncio.sleep(0.5)
    with contextlib.closing(sqlite3.connect(journals(directory)[0], isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(HANG_S)
        process.send_signal(ending)
        output, log = await communicating
    lines = (first + output).decode().split("\n")[:-1]
    assert "unbalanced" not in lines
    return lines, log.decode()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
@pytest.mark.parametrize("when_slow", ["answer", "wait"])
async def test_every_answered_record_is_delivered_or_counted(
    tmp_path: Path, when_slow: str, ending: signal.Signals
) -> None:
    """Only records with the label `outbox:memory` are lost; the counter and the closing line have their number."""
    lines, log = await run(tmp_path, cast("WhenSlow", when_slow), ending)
    answered = [line.split() for line in lines]
    unsafe = {name for name, is_safe, _ in answered if is_safe == "False"}

    sink = ListSink()
    async with service(tmp_path, sink) as box:
        await eventually(lambda: box.stats().is_durable and not box.stats().sinks["list"].waiting)

    lost = {name for name, _, _ in answered} - set(sink.ids)
    assert lost <= unsafe
    assert len(sink.ids) == len(set(sink.ids))
    if when_slow == "answer":
        assert len(unsafe) > 20
        assert max(int(counted) for _, _, counted in answered) >= len(unsafe) - 8
    elif ending == signal.SIGKILL:
        assert unsafe == set()
    if ending == signal.SIGTERM:
        [written] = re.findall(r"(\d+) records for sink list stay in the journal", log)
        [gone] = re.findall(r"(\d+) records for sink list were only in memory and are lost", log)
        assert int(written) == len(sink.ids)
        assert int(gone) >= len(lost)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.WARNING)
    asyncio.run(serve(Path(sys.argv[1]), cast("WhenSlow", sys.argv[2])))
