"""The end of a write-ahead log that SQLite cuts off."""

import shutil
from pathlib import Path

import pytest

from forge_otel._journal.adoption import adopt
from forge_otel._journal.segments import DiskSegment

FRAME_BYTES = 24 + 4096
COMMITS = 60


def killed(folder: Path) -> Path:
    """Return a folder as a killed process leaves it: every commit is in the log and none in the file."""
    segment = DiskSegment.create(folder / "living")
    for number in range(COMMITS):
        segment.append([(1.0, b"%03d" % number * 1000)])
    shutil.copytree(folder / "living", folder / "killed")
    segment.abandon()
    return folder / "killed"


def is_intact(body: bytes) -> bool:
    """Return whether a body is three characters repeated."""
    return len(body) == 3000 and body == body[:3] * 1000


def adopted(folder: Path) -> tuple[list[int], int]:
    """Adopt the only journal; return the sequence numbers of its entries, and the count of lost ones."""
    [segment] = adopt(folder, is_intact=is_intact)
    seqs = [seq for seq, _ in segment.read(0, 999, limit=999, limit_bytes=10**9)]
    segment.close()
    return seqs, segment.lost


def test_a_half_written_frame_costs_nothing(tmp_path: Path) -> None:
    """Bytes behind the last commit were never acknowledged; SQLite cuts them off, and no loss is counted."""
    folder = killed(tmp_path)
    [log] = folder.glob("*-wal")
    log.write_bytes(log.read_bytes() + b"\x37" * 1000)

    assert adopted(folder) == ([*range(1, COMMITS + 1)], 0)


def test_commits_behind_a_damaged_frame_are_restored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite stops at the damaged frame; only the entry on it is lost, and it is counted."""
    folder = killed(tmp_path)
    [log] = folder.glob("*-wal")
    content = bytearray(log.read_bytes())
    content[32 + FRAME_BYTES * 40 + 2000] ^= 1
    log.write_bytes(content)

    seqs, lost = adopted(folder)

    assert len(seqs) + lost == COMMITS
    assert lost <= 1
    assert "is damaged" in caplog.text
