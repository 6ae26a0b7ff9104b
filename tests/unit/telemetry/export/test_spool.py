"""What LangSmith has not taken waits on disk, and outlives whatever ends the process."""

import logging
import os
import resource
import stat
from collections import Counter
from pathlib import Path

import pytest
from tests.unit.telemetry.bridge import Bridge, bridge, eventually

from forge_otel.telemetry.export.accounting import SpanAccounting
from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.export.spool import Batch, Spool, SpoolOptions
from forge_otel.telemetry.langsmith.exporter import LangSmithProcessor
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

SLOW_TO_RETRY = RetryPolicy(first_wait_s=30, max_wait_s=30)


def parcels(count: int, *, size: int = 100) -> list[Batch]:
    """Batches of three spans each, told apart by their first byte."""
    return [Batch(body=bytes([number]) * size, count=3) for number in range(count)]


def spool_of(folder: Path | None, taken: int, **options: int) -> tuple[Spool, SpanAccounting]:
    """A spool whose ledger knows of `taken` spans."""
    ledger = SpanAccounting()
    ledger.take(taken)
    return Spool(SpoolOptions(directory=folder, **options), ledger), ledger


def drained(spool: Spool) -> list[int]:
    """Settle everything; return the first bytes in the order of their turn."""
    found = []
    while (held := spool.head()) is not None:
        found.append(held.parcel.body[0])
        spool.settle(held)
    return found


def end_spans(there: Bridge, count: int) -> set[str]:
    """End root spans that are runs."""
    for number in range(count):
        there.tracer.start_span(f"run {number}", attributes={"forge.span.kind": "agent"}).end()
    return {f"run {number}" for number in range(count)}


@pytest.mark.parametrize("on_disk", [True, False])
def test_batches_come_out_in_order_and_once(tmp_path: Path, on_disk: bool) -> None:
    """First in, first out; what is put back is last; afterwards nothing is left, not even a file."""
    folder = tmp_path / "spool"
    spool, _ = spool_of(folder if on_disk else None, 12)
    spool.put(parcels(4))
    assert spool.spans_on_disk == 12 * on_disk
    first = spool.head()
    assert first is not None
    spool.settle(first, requeue=[first.parcel])
    assert drained(spool) == [1, 2, 3, 0]
    assert (spool.spans_on_disk, spool.size_bytes) == (0, 0)
    spool.close(timeout_s=1)
    assert not on_disk or list(folder.iterdir()) == []


def test_only_its_owner_may_read_the_files(tmp_path: Path) -> None:
    """Contents of traces are nobody else's business: 0600, in a folder of 0700."""
    folder = tmp_path / "spool"
    spool, _ = spool_of(folder, 3)
    spool.put(parcels(1))
    modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    spool.close(timeout_s=1)


def test_above_its_size_new_batches_are_dropped(tmp_path: Path) -> None:
    """What waits stays; what comes is counted as `spool_full`, and taken again when there is room."""
    spool, ledger = spool_of(tmp_path, 15, max_bytes=350)
    spool.put(parcels(4))
    assert dict(ledger.stats().dropped) == {"spool_full": 3}
    assert ledger.stats().waiting == 12
    head = spool.head()
    assert head is not None
    ledger.exported(3)
    spool.settle(head)
    spool.put(parcels(1))
    assert drained(spool) == [1, 2, 0]


def test_a_living_process_keeps_its_files(tmp_path: Path) -> None:
    """Another one adopts nothing of it while it lives, and everything when it is gone."""
    first, _ = spool_of(tmp_path, 3)
    first.put(parcels(1))
    second, ledger = spool_of(tmp_path, 0)
    second.adopt()
    assert (second.head(), ledger.stats().produced) == (None, 0)
    first.close(timeout_s=1)
    second.adopt()
    assert (ledger.stats().produced, ledger.stats().waiting) == (3, 3)
    assert drained(second) == [0]
    second.close(timeout_s=1)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_set_aside_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Random bytes in place of the file: what was in it is `damaged`, and what comes is kept as ever."""
    spool, ledger = spool_of(tmp_path, 9)
    spool.put(parcels(2, size=50_000))
    (file,) = tmp_path.glob("*.journal")
    for path in (file, file.with_name(f"{file.name}-wal")):
        path.write_bytes(os.urandom(path.stat().st_size))
    assert spool.head() is None
    assert dict(ledger.stats().dropped) == {"damaged": 6}
    assert "set aside" in caplog.text
    spool.put(parcels(1))
    assert drained(spool) == [0]
    spool.close(timeout_s=1)


def test_a_foreign_file_is_set_aside(tmp_path: Path) -> None:
    """A journal that holds something else is nothing to send, and costs nothing else."""
    ledger = SpanAccounting()
    other, _ = spool_of(tmp_path, 3)
    other.put(parcels(1))
    other.close(timeout_s=1)
    (file,) = tmp_path.glob("*.journal")
    file.write_bytes(file.read_bytes().replace(b"FGS1", b"XXXX"))
    spool = Spool(SpoolOptions(directory=tmp_path), ledger)
    spool.adopt()
    assert (spool.head(), ledger.stats().produced) == (None, 0)
    assert list(tmp_path.glob("*.corrupt"))


def test_a_disk_that_takes_nothing_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Batches wait in memory, and it is said that a crash would lose them."""
    (tmp_path / "file").write_text("in the way")
    spool, ledger = spool_of(tmp_path / "file", 3)
    spool.put(parcels(1))
    assert (spool.is_durable, spool.spans_on_disk, ledger.stats().waiting) == (False, 0, 3)
    assert "wait in memory" in caplog.text
    assert drained(spool) == [0]


def test_a_full_disk_is_done_without(tmp_path: Path) -> None:
    """No file may grow any further: what comes waits in memory, and what was stored is still sent first."""
    spool, _ = spool_of(tmp_path, 6)
    spool.put(parcels(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        spool.put([Batch(body=b"\1" * 400_000, count=3)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (spool.is_durable, spool.spans_on_disk) == (False, 3)
    assert drained(spool) == [0, 1]


def test_what_waits_at_the_end_is_sent_by_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """LangSmith is away: the end is quick, nothing is lost, and the next processor sends it, each span once."""
    caplog.set_level(logging.INFO)
    spool = SpoolOptions(directory=tmp_path)
    with bridge(spool=spool) as there:
        there.langsmith.fail(LangSmithFault())
        names = end_spans(there, 30)
        eventually(lambda: there.processor.stats().spooled == 30)
        there.processor.shutdown()
        stats = there.processor.stats()
        assert (stats.produced, stats.waiting, stats.spooled, dict(stats.dropped)) == (30, 30, 30, {})
        assert "30 spans wait on disk" in caplog.text
        there.langsmith.recover()
        again = LangSmithProcessor(there.processor.options, spool=spool)
        eventually(lambda: again.stats().exported == 30)
        again.shutdown()
        assert Counter(span.name for span in there.langsmith.spans) == Counter(names)
    assert list(tmp_path.iterdir()) == []


def test_spans_reach_the_disk_while_the_server_hangs(tmp_path: Path) -> None:
    """Those too that end after the request that hangs was sent; the room in memory is free for others."""
    with bridge(spool=SpoolOptions(directory=tmp_path), max_waiting=40, policy=RetryPolicy()) as there:
        there.langsmith.fail(LangSmithFault(kind="hang"))
        for round_ in range(1, 6):
            end_spans(there, 30)
            eventually(lambda spooled=30 * round_: there.processor.stats().spooled == spooled)  # type: ignore[misc]
        assert there.langsmith.answers["hang"] == 1
        assert dict(there.processor.stats().dropped) == {}
        there.langsmith.recover()
        there.flush()
        assert len({span.span_id for span in there.langsmith.spans}) == 150


def test_a_pause_between_attempts_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """A server that recovered meanwhile gets all of it in one more attempt."""
    with bridge(spool=SpoolOptions(directory=tmp_path), policy=SLOW_TO_RETRY) as there:
        there.langsmith.fail(LangSmithFault(times=1))
        names = end_spans(there, 10)
        eventually(lambda: there.langsmith.answers["503"] == 1)
        there.processor.shutdown()
        assert Counter(span.name for span in there.langsmith.spans) == Counter(names)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_files_to_its_parent(tmp_path: Path) -> None:
    """It has a file of its own, and does not keep the parent's from being adopted."""
    with bridge(spool=SpoolOptions(directory=tmp_path), server=LangSmithStandIn(api_key="no")) as there:
        names = end_spans(there, 5)
        eventually(lambda: there.processor.stats().spooled == 5)
        ready, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            there.tracer.start_span("of the child", attributes={"forge.span.kind": "agent"}).end()
            eventually(lambda: there.processor.stats().spooled == 1)
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            os._exit(0 if there.processor.stats().produced == 1 else 1)
        os.read(ready[0], 1)
        assert len(list(tmp_path.glob("*.journal"))) == 2
        there.processor.shutdown()
        there.langsmith.api_key = "key"
        heir = LangSmithProcessor(there.processor.options, spool=SpoolOptions(directory=tmp_path))
        eventually(lambda: {span.name for span in there.langsmith.spans} >= names)
        heir.shutdown()
        os.write(done[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
