"""The matrix finds what is nearest within its scope, and the event loop waits for nothing."""

import asyncio
import random
import time
from pathlib import Path

import numpy as np
import pytest

from forge_otel.types import Point
from forge_otel.vector_stores.in_process import VectorMatrix, open_url

LATER = time.time() + 3600


def point(number: int, *, scope: str = "s", dimensions: int = 16, expires_at: float = LATER) -> Point:
    rng = np.random.default_rng(number)
    vector = rng.normal(size=dimensions).astype(np.float32)
    return Point(id=f"p{number}", scope=scope, facts="f", vector=vector / np.linalg.norm(vector), expires_at=expires_at)


async def test_it_finds_what_brute_force_finds() -> None:
    """Over block borders, after removals and replacements: the same points in the same order as numpy's own."""
    chance = random.Random(0)
    async with VectorMatrix() as matrix:
        points = {f"p{number}": point(number) for number in range(2500)}
        for one in points.values():
            await matrix.put(one)
        gone = chance.sample(sorted(points), 700)
        await matrix.remove(gone)
        for name in gone:
            del points[name]
        wanted = point(5000).vector
        table = np.stack([np.asarray(one.vector) for one in points.values()])
        expected = [list(points)[place] for place in np.argsort(-(table @ np.asarray(wanted)))[:8]]
        assert [found.id for found in await matrix.search("s", wanted, limit=8)] == expected
        assert len(matrix) == len(points)


async def test_a_scope_sees_only_itself() -> None:
    """The hard filter is the scope; a vector of another size finds nothing."""
    async with VectorMatrix() as matrix:
        await matrix.put(point(1, scope="a"))
        assert await matrix.search("b", point(1).vector, limit=3) == []
        assert await matrix.search("a", [1.0], limit=3) == []
        (found,) = await matrix.search("a", point(1).vector, limit=3)
        assert found.similarity == pytest.approx(1, abs=1e-5)


async def test_it_outlives_the_process(tmp_path: Path) -> None:
    """A database keeps points; two processes see what the other adds."""
    url = f"vectors://{tmp_path}/folder/v.db"
    async with open_url(url) as one, open_url(url) as other:
        await one.put(point(1))
        await other.put(point(2))
        assert {found.id for found in await one.search("s", point(2).vector, limit=3)} == {"p1", "p2"}
    async with open_url(url) as later:
        assert len(await later.search("s", point(1).vector, limit=3)) == 2


async def test_the_oldest_are_forgotten_when_there_are_too_many() -> None:
    """The number of points is bounded."""
    async with VectorMatrix(max_points=600) as matrix:
        for number in range(601):
            await matrix.put(point(number))
        assert len(matrix) == 101
        assert await matrix.search("s", point(600).vector, limit=1)


async def test_a_damaged_database_is_set_aside(tmp_path: Path) -> None:
    """Garbage in place of the file costs what was in it, and nothing else."""
    file = tmp_path / "v.db"
    file.write_bytes(random.Random(0).randbytes(20_000))
    async with open_url(f"vectors://{file}") as matrix:
        await matrix.put(point(1))
        assert await matrix.search("s", point(1).vector, limit=1)
    assert [path.name for path in tmp_path.glob("v.db.damaged-*")]


async def test_what_cannot_be_opened_does_not_stop_the_start(tmp_path: Path) -> None:
    """A folder that cannot be made: the forge opens, and look-ups say that they fail."""
    (tmp_path / "file").write_text("")
    async with open_url(f"vectors://{tmp_path}/file/v.db") as matrix:
        with pytest.raises(OSError, match="file"):
            await matrix.ping()


async def test_it_can_be_opened_again() -> None:
    """A forge may be opened and closed more than once."""
    matrix = VectorMatrix()
    for _ in range(2):
        async with matrix:
            await matrix.put(point(1))
            assert len(await matrix.search("s", point(1).vector, limit=1)) == 1


async def test_the_loop_does_nothing_while_a_large_matrix_is_searched() -> None:
    """20 000 vectors of 1536 dimensions: the loop's own thread spends next to no time of the processor on a look-up."""
    async with VectorMatrix() as matrix:
        block = np.random.default_rng(0).normal(size=(20_000, 1536)).astype(np.float32)
        await fill(matrix, block)
        wanted = block[0]
        started = time.thread_time()
        for _ in range(10):
            await matrix.search("s", wanted, limit=8)
        assert (time.thread_time() - started) / 10 < 0.005
        await asyncio.sleep(0)


async def fill(matrix: VectorMatrix, block: np.ndarray) -> None:
    """Put all rows at once: twenty thousand calls are not what is tested."""

    def add() -> None:
        rows = [(f"p{n}", "s", "f", row.tobytes(), LATER) for n, row in enumerate(block)]
        matrix._opened().executemany(
            "INSERT INTO points (id, scope, facts, vector, expires_at) VALUES (?, ?, ?, ?, ?)", rows
        )

    await matrix._run(add)
