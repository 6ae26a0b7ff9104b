"""The disk spool: order, limits, adoption, damage and a disk that fails."""

import os
import resource
import sqlite3
import stat
import threading
import time
from pathlib import Path

import pytest

from forge_otel.telemetry.export import spool as spool_module
from forge_otel.telemetry.export.accounting import SpanAccounting
from forge_otel.telemetry.export.spool import Batch, Spool, SpoolOptions


def batches(count: int, *, size: int = 100) -> list[Batch]:
    """Return batches of three spans each, numbered by their first byte."""
    return [Batch(body=bytes([number]) * size, span_count=3) for number in range(count)]


def spool_of(folder: Path | None, produced: int, **options: int) -> tuple[Spool, SpanAccounting]:
    """Return a spool and its accounting, with `produced` spans waiting."""
    accounting = SpanAccounting()
    accounting.add_produced(produced)
    return Spool(SpoolOptions(directory=folder, **options), accounting), accounting


def drained(spool: Spool) -> list[int]:
    """Remove all batches and return their first bytes in order."""
    found = []
    while (pending := spool.head()) is not None:
        found.append(pending.batch.body[0])
        spool.remove(pending)
    return found


@pytest.mark.parametrize("on_disk", [True, False])
def test_batches_come_out_in_order_and_once(tmp_path: Path, on_disk: bool) -> None:
    """First in, first out; a requeued batch is last; no file is left in the end."""
    folder = tmp_path / "spool"
    spool, _ = spool_of(folder if on_disk else None, 12)
    spool.put(batches(4))
    assert spool.spans_on_disk == 12 * on_disk
    first = spool.head()
    assert first is not None
    spool.remove(first, requeue=[first.batch])
    assert drained(spool) == [1, 2, 3, 0]
    assert (spool.spans_on_disk, spool.size_bytes) == (0, 0)
    spool.close(timeout_s=1)
    assert not on_disk or list(folder.iterdir()) == []


def test_only_its_owner_may_read_the_files(tmp_path: Path) -> None:
    """Files have mode 0600, in a folder of mode 0700."""
    folder = tmp_path / "spool"
    spool, _ = spool_of(folder, 3)
    spool.put(batches(1))
    modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    spool.close(timeout_s=1)


def test_batches_above_the_size_limit_are_dropped(tmp_path: Path) -> None:
    """Stored batches stay; new ones are counted as `spool_full` until there is room again."""
    spool, accounting = spool_of(tmp_path, 15, max_bytes=350)
    spool.put(batches(4))
    assert dict(accounting.stats().dropped) == {"spool_full": 3}
    assert accounting.stats().waiting == 12
    head = spool.head()
    assert head is not None
    accounting.mark_exported(3)
    spool.remove(head)
    spool.put(batches(1))
    assert drained(spool) == [1, 2, 0]


def test_files_of_a_dead_process_are_adopted(tmp_path: Path) -> None:
    """The files of a running process are not; those of a closed spool are."""
    first, _ = spool_of(tmp_path, 3)
    first.put(batches(1))
    second, accounting = spool_of(tmp_path, 0)
    second.adopt()
    assert (second.head(), accounting.stats().produced) == (None, 0)
    first.close(timeout_s=1)
    second.adopt()
    assert (accounting.stats().produced, accounting.stats().waiting) == (3, 3)
    assert drained(second) == [0]
    second.close(timeout_s=1)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_set_aside_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of random bytes: its spans are counted as `damaged`, and new batches are stored."""
    spool, accounting = spool_of(tmp_path, 9)
    spool.put(batches(2, size=50_000))
    (file,) = tmp_path.glob("*.journal")
    for path in (file, file.with_name(f"{file.name}-wal")):
        path.write_bytes(os.urandom(path.stat().st_size))
    assert spool.head() is None
    assert dict(accounting.stats().dropped) == {"damaged": 6}
    assert "set aside" in caplog.text
    spool.put(batches(1))
    assert drained(spool) == [0]
    spool.close(timeout_s=1)


def test_a_foreign_file_is_set_aside(tmp_path: Path) -> None:
    """A journal without batches in it is not sent, and its records are not counted as spans."""
    accounting = SpanAccounting()
    other, _ = spool_of(tmp_path, 3)
    other.put(batches(1))
    other.close(timeout_s=1)
    (file,) = tmp_path.glob("*.journal")
    file.write_bytes(file.read_bytes().replace(b"FGS1", b"XXXX"))
    spool = Spool(SpoolOptions(directory=tmp_path), accounting)
    spool.adopt()
    assert (spool.head(), accounting.stats().produced) == (None, 0)
    assert list(tmp_path.glob("*.corrupt"))


def test_without_a_usable_disk_batches_wait_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning is logged, and `is_durable` is False."""
    (tmp_path / "file").write_text("in the way")
    spool, accounting = spool_of(tmp_path / "file", 3)
    spool.put(batches(1))
    assert (spool.is_durable, spool.spans_on_disk, accounting.stats().waiting) == (False, 0, 3)
    assert "wait in memory" in caplog.text
    assert drained(spool) == [0]


def test_on_a_full_disk_new_batches_wait_in_memory(tmp_path: Path) -> None:
    """Batches that were stored before are still sent first."""
    spool, _ = spool_of(tmp_path, 6)
    spool.put(batches(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        spool.put([Batch(body=b"\1" * 400_000, span_count=3)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (spool.is_durable, spool.spans_on_disk) == (False, 3)
    assert drained(spool) == [0, 1]


def test_a_disk_that_hangs_is_reported_while_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another connection holds the file; the stall is described without the lock and ends with it."""
    monkeypatch.setattr(spool_module, "_STALL_S", 0.2)
    spool, _ = spool_of(tmp_path, 6)
    spool.put(batches(1))
    [path] = tmp_path.glob("*.journal")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert spool.stall() == ""
    writing = threading.Thread(target=spool.put, args=(batches(1),))
    writing.start()
    until_s = time.monotonic() + 4
    while not spool.stall() and time.monotonic() < until_s:
        time.sleep(0.02)
    assert "has not responded" in spool.stall()
    other.execute("ROLLBACK")
    other.close()
    writing.join(5)
    assert (spool.stall(), spool.spans_on_disk) == ("", 6)
    spool.close(timeout_s=1)
