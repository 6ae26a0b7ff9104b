"""Page reader for journals that SQLite refuses to read, or does not read to their end.

Each page of the file and of its write-ahead log is parsed on its own, in the order of writing
(https://www.sqlite.org/fileformat2.html §§ 1.6, 2.1, 4), so that one damaged page costs only the entries on it.
A page may be damaged or outdated, so every body is checked by the function that the caller supplies.
"""

import math
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

__all__ = ["RecoveredRows", "committed_frames", "is_truncated", "recover"]

_PAGE_BYTES: Final = 4096
_FILE_HEAD_BYTES: Final = 100
_WAL_HEAD_BYTES: Final = 32
_FRAME_HEAD_BYTES: Final = 24
_SHM_HEAD_BYTES: Final = 48
_TABLE_LEAF: Final = 0x0D
_LEAF_HEAD_BYTES: Final = 8
_TABLE_INNER: Final = 0x05
_INNER_HEAD_BYTES: Final = 12
_CHILD_BYTES: Final = 4
_MAX_LOCAL: Final = _PAGE_BYTES - 35
_MIN_LOCAL: Final = (_PAGE_BYTES - 12) * 32 // 255 - 23
_OVERFLOW_BYTES: Final = _PAGE_BYTES - 4
_INTEGER_BYTES: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_FLOAT: Final = 7
_FIRST_BLOB: Final = 12


@dataclass(slots=True)
class RecoveredRows:
    """Result of a page scan.

    Args:
        rows: sequence number to Unix time of arrival in seconds and intact body.
        broken: sequence numbers of entries that are damaged, or named by an inner page and missing.
    """

    rows: dict[int, tuple[float, bytes]] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)


def recover(file: bytes, wal: bytes, *, is_intact: Callable[[bytes], bool]) -> RecoveredRows:
    """Return the readable entries in a journal and its log.

    Args:
        file: content of the journal.
        wal: content of its write-ahead log, may be empty.
        is_intact: returns whether a body is complete and unchanged.
    """
    written = [*_pages(file), *((number, page) for _, number, page, _ in _frames(wal))]
    latest = dict(written)
    found = RecoveredRows()
    for number, page in written:
        cells = list(_cells(page, _FILE_HEAD_BYTES if number == 1 else 0, latest))
        found.rows.update({seq: (at_s, body) for seq, at_s, body in cells if is_intact(body)})
        found.broken.update(_if_ascending([seq for seq, *_ in cells]), _if_ascending(_keys(page)))
    found.broken -= found.rows.keys()
    return found


def is_truncated(file: bytes) -> bool:
    """Return whether a journal is shorter than the page count in its header."""
    return len(file) < _FILE_HEAD_BYTES or len(file) < int.from_bytes(file[28:32], "big") * _PAGE_BYTES


def committed_frames(wal: bytes, shm: bytes) -> int:
    """Return the number of frames up to the last commit in a write-ahead log, damaged frames included.

    Args:
        wal: content of the log; its checksums are ignored.
        shm: content of its index, which survives a killed process; may be empty.
    """
    head, again = shm[:_SHM_HEAD_BYTES], shm[_SHM_HEAD_BYTES : 2 * _SHM_HEAD_BYTES]
    # SQLite writes the header twice; the copies differ while it is being changed.
    indexed = int.from_bytes(head[16:20], sys.byteorder) if head and head == again and head[12] else 0
    return max([indexed, *(position for position, _, _, size in _frames(wal) if size)])


def _pages(file: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(file) - _PAGE_BYTES + 1, _PAGE_BYTES):
        yield start // _PAGE_BYTES + 1, file[start : start + _PAGE_BYTES]


def _frames(wal: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """Iterate over the log: position from 1, page number, page, and file size in pages after a commit, else 0."""
    step = _FRAME_HEAD_BYTES + _PAGE_BYTES
    # Frames of an earlier generation of the log have another salt.
    salt = wal[_WAL_HEAD_BYTES + 8 : _WAL_HEAD_BYTES + 16]
    for position, start in enumerate(range(_WAL_HEAD_BYTES, len(wal) - step + 1, step), 1):
        number, size = struct.unpack_from(">II", wal, start)
        if wal[start + 8 : start + 16] == salt:
            yield position, number, wal[start + _FRAME_HEAD_BYTES : start + step], size


def _cells(page: bytes, start: int, pages: dict[int, bytes]) -> Iterator[tuple[int, float, bytes]]:
    """Iterate over the entries on a leaf page of a table."""
    if page[start] != _TABLE_LEAF:
        return
    (count,) = struct.unpack_from(">H", page, start + 3)
    first = start + _LEAF_HEAD_BYTES
    for position in range(first, min(first + 2 * count, _PAGE_BYTES - 1), 2):
        (cell,) = struct.unpack_from(">H", page, position)
        try:
            size_bytes, at = _varint(page, cell)
            seq, at = _varint(page, at)
            if 0 < size_bytes <= len(pages) * _PAGE_BYTES and 0 < seq < 2**62:
                yield seq, *_columns(_payload(page, at, size_bytes, pages))
        except (IndexError, struct.error):
            continue


def _keys(page: bytes) -> list[int]:
    """Return the sequence numbers on an inner page of a table."""
    if page[0] != _TABLE_INNER:
        return []
    (count,) = struct.unpack_from(">H", page, 3)
    found: list[int] = []
    for position in range(_INNER_HEAD_BYTES, min(_INNER_HEAD_BYTES + 2 * count, _PAGE_BYTES - 1), 2):
        (cell,) = struct.unpack_from(">H", page, position)
        with suppress(IndexError):
            found.append(_varint(page, cell + _CHILD_BYTES)[0])
    return found


def _if_ascending(numbers: list[int]) -> list[int]:
    """Return the numbers of a page if they ascend, as valid ones do, else none."""
    return numbers if all(one < following for one, following in pairwise(numbers)) else []


def _payload(page: bytes, at: int, size_bytes: int, pages: dict[int, bytes]) -> bytes:
    """Return the payload of a cell, with its overflow pages as far as they can be found."""
    if size_bytes <= _MAX_LOCAL:
        return page[at : at + size_bytes]
    local = _MIN_LOCAL + (size_bytes - _MIN_LOCAL) % _OVERFLOW_BYTES
    local = local if local <= _MAX_LOCAL else _MIN_LOCAL
    (following,) = struct.unpack_from(">I", page, at + local)
    parts, left, seen = [page[at : at + local]], size_bytes - local, {0}
    # A damaged chain may be circular.
    while left > 0 and following in pages and following not in seen:
        seen.add(following)
        (following,), part = struct.unpack_from(">I", pages[following]), pages[following][4 : 4 + left]
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _columns(payload: bytes) -> tuple[float, bytes]:
    """Return time and body of a row of `record`; its key is not in the payload."""
    head_bytes, at = _varint(payload, 0)
    _, at = _varint(payload, at)
    kind, at = _varint(payload, at)
    length, _ = _varint(payload, at)
    if kind == _FLOAT:
        (arrived_at_s,), size_bytes = struct.unpack_from(">d", payload, head_bytes), 8
    else:
        size_bytes = _INTEGER_BYTES.get(kind, 0)
        arrived_at_s = float(int.from_bytes(payload[head_bytes : head_bytes + size_bytes], "big", signed=True))
    start = head_bytes + size_bytes
    body = payload[start : start + max(0, length - _FIRST_BLOB) // 2]
    return (arrived_at_s if math.isfinite(arrived_at_s) else 0.0), body


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length integer at `at` (1 to 9 bytes), and the offset behind it."""
    value = 0
    for offset in range(8):
        byte = data[at + offset]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + offset + 1
    return value << 8 | data[at + 8], at + 9
