"""Delivery to sinks that fail, reject records, or cannot be opened."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from tests.unit.outbox.builders import DownSink, is_balanced, outbox
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel.errors import Rejected
from forge_otel.outbox import delivery_worker
from forge_otel.outbox.codec import decode
from forge_otel.types import Record


async def test_a_sink_that_recovers_gets_all_records_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unavailable sink delays no other sink, and gets each record once and in order when it recovers."""
    down, up = DownSink("down"), ListSink()
    records = [record() for _ in range(700)]

    async with outbox(tmp_path, down, up) as box:
        for item in records:
            box.offer_nowait(item)
        await eventually(lambda: len(up.ids) == 700 and down.calls > 2)
        stats = box.stats().sinks["down"]
        assert (stats.waiting, stats.is_up, stats.last_error) == (700, False, "ConnectionError: refused")
        assert stats.oldest_age_s > 0
        down.fault = None
        await eventually(lambda: len(down.ids) == 700)
        assert box.stats().sinks["down"].is_up

    assert down.ids == up.ids == [item.id for item in records]
    assert caplog.text.count("sink down unavailable") == 1
    assert caplog.text.count("sink down available again") == 1


@pytest.mark.parametrize("neighbours", [0, 1, 40], ids=["alone", "one neighbour", "many"])
async def test_a_poison_record_becomes_a_dead_letter(tmp_path: Path, neighbours: int) -> None:
    """A record that fails while another one is stored becomes a dead letter; the rest is delivered once."""

    class Picky(ListSink):
        async def deliver(self, records: Sequence[Record], /) -> None:
            if any(item.component_name == "poison" for item in records):
                raise RuntimeError("cannot digest this")
            await super().deliver(records)

    poison, good = record(component_name="poison"), [record(component_id=f"c{n}") for n in range(neighbours)]
    sink = Picky()
    async with outbox(tmp_path, sink, shutdown_timeout_s=0.5) as box:
        for item in [*good[: neighbours // 2], poison, *good[neighbours // 2 :]]:
            box.offer_nowait(item)
        done = 1 if neighbours else 0
        await eventually(lambda: box.stats().sinks["list"].dropped == ({"rejected": 1} if done else {}))
        await eventually(lambda: set(sink.ids) == {item.id for item in good})
        stats = box.stats().sinks["list"]

    assert is_balanced(stats)
    assert stats.waiting == 1 - done
    if neighbours > 1:
        assert len(sink.ids) == neighbours
    if done:
        with sqlite3.connect(tmp_path / "dead-letters.sqlite") as connection:
            [(name, reason, body)] = connection.execute("SELECT sink, reason, body FROM dead_letter").fetchall()
        connection.close()
        assert (name, reason, decode(body)) == ("list", "RuntimeError: cannot digest this", poison)


async def test_a_rejected_record_is_not_retried(tmp_path: Path) -> None:
    """`Rejected` is final, even if no other record proves that the sink is available."""

    class Strict(ListSink):
        async def deliver(self, records: Sequence[Record], /) -> None:
            self.calls += 1
            raise Rejected("never")

    sink = Strict()
    async with outbox(tmp_path, sink) as box:
        await box.offer(record())
        await eventually(lambda: box.stats().sinks["list"].dropped == {"rejected": 1})

    assert sink.calls == 1


async def test_an_unavailable_sink_makes_no_dead_letters(tmp_path: Path) -> None:
    """While every record fails, all of them wait and none becomes a dead letter."""
    sink = DownSink()
    async with outbox(tmp_path, sink, shutdown_timeout_s=0.5) as box:
        for _ in range(30):
            box.offer_nowait(record())
        await eventually(lambda: sink.calls > 10)
        stats = box.stats().sinks["list"]

    assert (stats.waiting, stats.dropped) == (30, {})
    assert not (tmp_path / "dead-letters.sqlite").exists()


async def test_a_sink_that_cannot_be_opened_is_retried(tmp_path: Path) -> None:
    """A sink is opened in the background until that succeeds, while its records wait, and closed at the end."""

    class Late(ListSink):
        opened = closed = 0

        async def __aenter__(self) -> Self:
            self.opened += 1
            if self.opened < 3:
                raise ConnectionError("not yet")
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            self.closed += 1

    late, other = Late(), ListSink()
    async with outbox(tmp_path, late, other) as box:
        await box.offer(record())
        await eventually(lambda: len(late.ids) == len(other.ids) == 1)

    assert (late.opened, late.closed) == (3, 1)


class PanicError(BaseException):
    """Stand-in for the PanicException of a Rust extension."""


async def test_a_sink_that_panics_is_down_and_recovers(tmp_path: Path) -> None:
    """A BaseException is a failure like any other: the sink is down, records wait, and are delivered later."""

    class Panicking(DownSink):
        async def deliver(self, records: Sequence[Record], /) -> None:
            if self.fault is not None:
                raise PanicError("called `Option::unwrap()` on a `None` value")
            await super().deliver(records)

    sink = Panicking()
    async with outbox(tmp_path, sink) as box:
        for _ in range(3):
            await box.offer(record())
        await eventually(lambda: not box.stats().sinks["list"].is_up)
        stats = box.stats().sinks["list"]
        assert (stats.waiting, stats.last_error.partition(":")[0]) == (3, "PanicError")
        sink.fault = None
        await eventually(lambda: len(sink.ids) == 3 and box.stats().sinks["list"].is_up)


@pytest.mark.parametrize("where", ["deliver", "open"])
async def test_a_sink_that_hangs_is_down_while_it_hangs(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt without an answer is an outage before its timeout; the answer ends it."""
    monkeypatch.setattr(delivery_worker, "_SLOW_ATTEMPT_S", 0.3)
    released = asyncio.Event()

    class Hanging(ListSink):
        async def __aenter__(self) -> Self:
            if where == "open":
                await released.wait()
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def deliver(self, records: Sequence[Record], /) -> None:
            if where == "deliver":
                await released.wait()
            await super().deliver(records)

    sink = Hanging()
    async with outbox(tmp_path, sink) as box:
        await box.offer(record())
        await eventually(lambda: not box.stats().sinks["list"].is_up)
        assert "no response for" in box.stats().sinks["list"].last_error
        assert box.degraded() == ["list:outbox"]
        released.set()
        await eventually(lambda: len(sink.ids) == 1 and box.degraded() == [])
        assert box.stats().sinks["list"].last_error == ""
