"""Page by page reading of a damaged journal: a damaged page costs the entries on it and no others."""

import pytest

from forge_otel._journal.segments import DiskSegment
from forge_otel._journal.sqlite_recovery import is_truncated, recover

PAGE_BYTES = 4096
COUNT = 2_000


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal with small and large entries, with inner pages above its leaves."""
    segment = DiskSegment.create(tmp_path_factory.mktemp("journal"))
    rows = segment.append([(1e9 + n, b"%06d" % n * (300 if n % 10 else 2000)) for n in range(COUNT)])
    segment.index.extend(rows)
    segment.close()
    return segment.path.read_bytes()


def is_intact(body: bytes) -> bool:
    """Return whether a body is six digits repeated."""
    return len(body) in {1800, 12_000} and body == body[:6] * (len(body) // 6)


def pages(content: bytes, kind: int) -> list[int]:
    """Return the offsets of the pages of one kind: 5 for inner pages of a table, 13 for leaves."""
    return [start for start in range(PAGE_BYTES, len(content), PAGE_BYTES) if content[start] == kind]


def zeroed(content: bytes, start: int) -> bytes:
    """Return the content with one page overwritten."""
    return content[:start] + bytes(PAGE_BYTES) + content[start + PAGE_BYTES :]


def test_an_undamaged_file_is_read_completely(content: bytes) -> None:
    """All entries come back with their times, those on overflow pages included."""
    found = recover(content, b"", is_intact=is_intact)

    assert found.rows == {n + 1: (1e9 + n, b"%06d" % n * (300 if n % 10 else 2000)) for n in range(COUNT)}
    assert not found.broken


@pytest.mark.parametrize("position", [0, 1, -1], ids=["root", "first inner", "last inner"])
def test_a_damaged_inner_page_costs_no_entry(content: bytes, position: int) -> None:
    """SQLite could reach no entry below the page; the leaves are read without it."""
    found = recover(zeroed(content, pages(content, 5)[position]), b"", is_intact=is_intact)

    assert len(found.rows) == COUNT


def test_a_damaged_header_costs_no_entry(content: bytes) -> None:
    """Without the first page SQLite does not open the file at all."""
    assert len(recover(zeroed(content, 0), b"", is_intact=is_intact).rows) == COUNT


def test_a_damaged_leaf_costs_its_entries(content: bytes) -> None:
    """The entries on the page are lost, and no other ones."""
    found = recover(zeroed(content, pages(content, 13)[100]), b"", is_intact=is_intact)

    assert COUNT - 10 <= len(found.rows) < COUNT


def test_a_truncated_file_is_recognised(content: bytes) -> None:
    """The header has the number of pages."""
    assert not is_truncated(content)
    assert is_truncated(content[:-PAGE_BYTES])
