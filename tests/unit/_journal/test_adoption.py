"""Adoption of journals that dead processes left behind."""

import sqlite3
from pathlib import Path

import pytest
from tests.unit.outbox.builders import DownSink, is_balanced, journals, left_behind, outbox
from tests.unit.sinks.builders import ListSink, eventually, record


async def test_adopted_records_come_before_new_ones(tmp_path: Path) -> None:
    """Adopted records are delivered first, then new ones."""
    old, new = [record() for _ in range(600)], [record() for _ in range(5)]
    await left_behind(tmp_path, old)

    sink = DownSink()
    async with outbox(tmp_path, sink) as box:
        for item in new:
            await box.offer(item)
        sink.fault = None
        await eventually(lambda: len(sink.ids) == 605)

    assert sink.records == old + new


async def test_a_journal_is_adopted_after_the_death_of_its_process(tmp_path: Path) -> None:
    """A living process keeps its journal; after its end another process adopts it."""
    down, sink = DownSink(), ListSink()
    item = record()

    async with outbox(tmp_path, down, shutdown_timeout_s=0.2) as one:
        await one.offer(item)
        async with outbox(tmp_path, sink) as two:
            await two.offer(record())
            await eventually(lambda: len(sink.ids) == 1)
            assert two.stats().sinks["list"].produced == 1
        assert one.stats().sinks["list"].waiting == 1

    async with outbox(tmp_path, sink):
        await eventually(lambda: sink.ids[1:] == [item.id])


@pytest.mark.parametrize("damage", ["text", "header", "pages", "empty"])
async def test_a_corrupt_journal_never_blocks_the_start(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable journal is set aside and logged, its intact records are delivered, and the service works."""
    offered = [record(artifacts={"a": "x" * 5000}) for _ in range(50)]
    await left_behind(tmp_path, offered)
    [path] = journals(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "text":
        content = bytearray(b"not a database at all" * 100)
    elif damage == "header":
        content[:100] = bytes(100)
    elif damage == "pages":
        content[4096:] = b"\xff" * (len(content) - 4096)
    else:
        content = bytearray()
    path.write_bytes(content)

    sink, fresh = ListSink(), record()
    async with outbox(tmp_path, sink) as box:
        await box.offer(fresh)
        await eventually(lambda: fresh.id in sink.ids)
        assert is_balanced(box.stats().sinks["list"])

    assert sink.records == [*(offered if damage == "header" else []), fresh]
    assert journals(tmp_path) == []
    if damage != "empty":
        assert path.with_name(f"{path.name}.corrupt").read_bytes() == content
        assert "is damaged" in caplog.text


async def test_a_journal_in_a_later_format_is_not_changed(tmp_path: Path) -> None:
    """A file of a later release is neither read nor deleted nor renamed."""
    await left_behind(tmp_path, [record()])
    [path] = journals(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    async with outbox(tmp_path, ListSink()) as box:
        assert box.stats().sinks["list"].produced == 0

    assert journals(tmp_path) == [path]
