"""Records read out of a journal that SQLite does not read any more, or not to its end.

The pages of the file and of its write-ahead log are looked at one by one, in the order in which they were written
(https://www.sqlite.org/fileformat2.html §§ 1.6, 2.1, 4): every leaf of a table may hold records, whatever became of the
pages around it. What is found is a candidate only, because a page may be damaged, or old: whoever wrote the bodies has
to say which are whole.
"""

import math
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

__all__ = ["RecoveredRows", "committed_frames", "is_cut_short", "recover"]

_PAGE_BYTES: Final = 4096
_FILE_HEAD_BYTES: Final = 100
_WAL_HEAD_BYTES: Final = 32
_FRAME_HEAD_BYTES: Final = 24
_SHM_HEAD_BYTES: Final = 48
_TABLE_LEAF: Final = 0x0D
_LEAF_HEAD_BYTES: Final = 8
_TABLE_BRANCH: Final = 0x05
_BRANCH_HEAD_BYTES: Final = 12
_CHILD_BYTES: Final = 4
_MOST_LOCAL: Final = _PAGE_BYTES - 35
_LEAST_LOCAL: Final = (_PAGE_BYTES - 12) * 32 // 255 - 23
_OVERFLOW_BYTES: Final = _PAGE_BYTES - 4
_INTEGER_BYTES: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_FLOAT: Final = 7
_FIRST_BLOB: Final = 12


@dataclass(slots=True)
class RecoveredRows:
    """What was found.

    Args:
        rows: number of a record to when it was taken (Unix time in seconds), and its body, which is whole.
        broken: numbers of records that are not whole, or are spoken of and not there.
    """

    rows: dict[int, tuple[float, bytes]] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)


def recover(file: bytes, wal: bytes, *, is_whole: Callable[[bytes], bool]) -> RecoveredRows:
    """Return what can be read of the records in the contents of a journal and of its log.

    Args:
        file: contents of the journal.
        wal: contents of its write-ahead log, may be empty.
        is_whole: says whether a body is one.
    """
    written = [*_pages(file), *((number, page) for _, number, page, _ in _frames(wal))]
    latest = dict(written)
    found = RecoveredRows()
    for number, page in written:
        cells = list(_cells(page, _FILE_HEAD_BYTES if number == 1 else 0, latest))
        whole = {seq: (at_s, body) for seq, at_s, body in cells if is_whole(body)}
        found.rows.update(whole)
        found.broken.update(_if_in_order([seq for seq, *_ in cells]), _if_in_order(_keys(page)))
    found.broken -= found.rows.keys()
    return found


def is_cut_short(file: bytes) -> bool:
    """Say whether a journal is shorter than its head says."""
    return len(file) < _FILE_HEAD_BYTES or len(file) < int.from_bytes(file[28:32], "big") * _PAGE_BYTES


def committed_frames(wal: bytes, shm: bytes) -> int:
    """Return how many frames a write-ahead log held when its last transaction was committed, as far as can be told.

    Args:
        wal: contents of the log; what is wrong with its checksums does not matter here.
        shm: contents of its index, which outlives a killed process; may be empty.
    """
    head, again = shm[:_SHM_HEAD_BYTES], shm[_SHM_HEAD_BYTES : 2 * _SHM_HEAD_BYTES]
    # Written twice, so that a reader can tell when it is being changed.
    indexed = int.from_bytes(head[16:20], sys.byteorder) if head and head == again and head[12] else 0
    return max([indexed, *(place for place, _, _, size in _frames(wal) if size)])


def _pages(file: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(file) - _PAGE_BYTES + 1, _PAGE_BYTES):
        yield start // _PAGE_BYTES + 1, file[start : start + _PAGE_BYTES]


def _frames(wal: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """Go through the log: place from 1, number of a page, the page, and the size of the file after a commit, else 0."""
    step = _FRAME_HEAD_BYTES + _PAGE_BYTES
    # What the log held before it was begun anew has another salt.
    salt = wal[_WAL_HEAD_BYTES + 8 : _WAL_HEAD_BYTES + 16]
    for place, start in enumerate(range(_WAL_HEAD_BYTES, len(wal) - step + 1, step), 1):
        number, size = struct.unpack_from(">II", wal, start)
        if wal[start + 8 : start + 16] == salt:
            yield place, number, wal[start + _FRAME_HEAD_BYTES : start + step], size


def _cells(page: bytes, start: int, pages: dict[int, bytes]) -> Iterator[tuple[int, float, bytes]]:
    """Go through the records on a page that is a leaf of a table."""
    if page[start] != _TABLE_LEAF:
        return
    (count,) = struct.unpack_from(">H", page, start + 3)
    first = start + _LEAF_HEAD_BYTES
    for place in range(first, min(first + 2 * count, _PAGE_BYTES - 1), 2):
        (cell,) = struct.unpack_from(">H", page, place)
        try:
            size_bytes, at = _varint(page, cell)
            seq, at = _varint(page, at)
            if 0 < size_bytes <= len(pages) * _PAGE_BYTES and 0 < seq < 2**62:
                yield seq, *_columns(_payload(page, at, size_bytes, pages))
        except (IndexError, struct.error):
            continue


def _keys(page: bytes) -> list[int]:
    """Return the numbers of records on a page above the leaves of a table."""
    if page[0] != _TABLE_BRANCH:
        return []
    (count,) = struct.unpack_from(">H", page, 3)
    found: list[int] = []
    for place in range(_BRANCH_HEAD_BYTES, min(_BRANCH_HEAD_BYTES + 2 * count, _PAGE_BYTES - 1), 2):
        (cell,) = struct.unpack_from(">H", page, place)
        with suppress(IndexError):
            found.append(_varint(page, cell + _CHILD_BYTES)[0])
    return found


def _if_in_order(numbers: list[int]) -> list[int]:
    """Return numbers of records as a page has them; none where they are noise."""
    return numbers if all(one < following for one, following in pairwise(numbers)) else []


def _payload(page: bytes, at: int, size_bytes: int, pages: dict[int, bytes]) -> bytes:
    """Return a cell's payload with what of it lies on other pages, as far as those are there."""
    if size_bytes <= _MOST_LOCAL:
        return page[at : at + size_bytes]
    local = _LEAST_LOCAL + (size_bytes - _LEAST_LOCAL) % _OVERFLOW_BYTES
    local = local if local <= _MOST_LOCAL else _LEAST_LOCAL
    (following,) = struct.unpack_from(">I", page, at + local)
    parts, left, seen = [page[at : at + local]], size_bytes - local, {0}
    # A damaged chain may bite its tail.
    while left > 0 and following in pages and following not in seen:
        seen.add(following)
        (following,), part = struct.unpack_from(">I", pages[following]), pages[following][4 : 4 + left]
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _columns(payload: bytes) -> tuple[float, bytes]:
    """Read a row of `record`: its key, which is not in the payload, a number and a blob."""
    head_bytes, at = _varint(payload, 0)
    _, at = _varint(payload, at)
    kind, at = _varint(payload, at)
    length, _ = _varint(payload, at)
    if kind == _FLOAT:
        (taken_at_s,), size_bytes = struct.unpack_from(">d", payload, head_bytes), 8
    else:
        size_bytes = _INTEGER_BYTES.get(kind, 0)
        taken_at_s = float(int.from_bytes(payload[head_bytes : head_bytes + size_bytes], "big", signed=True))
    start = head_bytes + size_bytes
    body = payload[start : start + max(0, length - _FIRST_BLOB) // 2]
    return (taken_at_s if math.isfinite(taken_at_s) else 0.0), body


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a whole number of 1 to 9 bytes; return it and where it ends."""
    value = 0
    for place in range(8):
        byte = data[at + place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    return value << 8 | data[at + 8], at + 9
