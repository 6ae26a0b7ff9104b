"""A disk that fills up while the service runs."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel.outbox.outbox import Outbox, OutboxOptions
from forge_otel.types import Record


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """Let every write beyond a size fail, as it does on a full disk, for the whole process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_costs_no_answer(tmp_path: Path) -> None:
    """Records are queued in memory while the disk is full, on disk afterwards, and delivered in order."""
    sink = ListSink()
    sink.fault = ConnectionError("down")
    offered = [record(artifacts={"component.tsx": "x" * 20_000}) for _ in range(60)]
    later: list[Record] = []

    async with Outbox([sink], OutboxOptions(directory=tmp_path, max_bytes=2**26, shutdown_timeout_s=5)) as box:
        with files_no_larger_than(400_000):
            for item in offered:
                await box.offer(item)
            full = box.stats()
        while not box.stats().is_durable:
            later.append(record())
            await box.offer(later[-1])
        sink.fault = None
        await eventually(lambda: not box.stats().sinks["list"].waiting)

    assert not full.is_durable
    assert (full.sinks["list"].waiting, full.sinks["list"].dropped) == (60, {})
    assert sink.ids == [item.id for item in offered + later]
    # The first records reached the disk before it was full; each later one says that its caller was answered without.
    in_memory = [item.degraded for item in sink.records].count(("outbox:memory",))
    assert 0 < in_memory == box.stats().unjournaled < 60 + len(later)


async def test_a_full_disk_and_a_full_memory_are_counted(tmp_path: Path) -> None:
    """A record for which disk and memory have no room is dropped and counted, without an error for the caller."""
    sink = ListSink()
    sink.fault = ConnectionError("down")

    async with Outbox([sink], OutboxOptions(directory=tmp_path, max_bytes=2**30, shutdown_timeout_s=0.2)) as box:
        with files_no_larger_than(400_000):
            for _ in range(50):
                await box.offer(record(artifacts={"screenshot.png": bytes(2_000_000)}))
            stats = box.stats().sinks["list"]

    assert stats.dropped["disk"] > 0
    assert 64 * 2**20 > stats.waiting * 2_000_000 > 50 * 2**20
    assert stats.produced == 50 == stats.waiting + stats.dropped["disk"]
