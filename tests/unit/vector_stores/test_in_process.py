"""Nearest neighbours in matrices, off the event loop."""

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


async def test_results_equal_those_of_brute_force() -> None:
    """The same points in the same order, also after removals and growth."""
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
        expected = [list(points)[index] for index in np.argsort(-(table @ np.asarray(wanted)))[:8]]
        assert [found.id for found in await matrix.search("s", wanted, limit=8)] == expected
        assert len(matrix) == len(points)


async def test_scopes_are_separate() -> None:
    """A vector of another size finds nothing."""
    async with VectorMatrix() as matrix:
        await matrix.put(point(1, scope="a"))
        assert await matrix.search("b", point(1).vector, limit=3) == []
        assert await matrix.search("a", [1.0], limit=3) == []
        (found,) = await matrix.search("a", point(1).vector, limit=3)
        assert found.similarity == pytest.approx(1, abs=1e-5)


async def test_a_file_is_shared_and_survives_the_process(tmp_path: Path) -> None:
    """Two processes see each other's points."""
    url = f"vectors://{tmp_path}/folder/v.db"
    async with open_url(url) as one, open_url(url) as other:
        await one.put(point(1))
        await other.put(point(2))
        assert {found.id for found in await one.search("s", point(2).vector, limit=3)} == {"p1", "p2"}
    async with open_url(url) as later:
        assert len(await later.search("s", point(1).vector, limit=3)) == 2


async def test_the_oldest_points_are_evicted() -> None:
    """The number of points is bounded."""
    async with VectorMatrix(max_points=600) as matrix:
        for number in range(601):
            await matrix.put(point(number))
        assert len(matrix) == 101
        assert await matrix.search("s", point(600).vector, limit=1)


async def test_a_damaged_database_is_renamed_and_replaced(tmp_path: Path) -> None:
    """Only its points are lost."""
    file = tmp_path / "v.db"
    file.write_bytes(random.Random(0).randbytes(20_000))
    async with open_url(f"vectors://{file}") as matrix:
        await matrix.put(point(1))
        assert await matrix.search("s", point(1).vector, limit=1)
    assert [path.name for path in tmp_path.glob("v.db.damaged-*")]


async def test_a_file_that_cannot_be_opened_does_not_stop_the_start(tmp_path: Path) -> None:
    """Each search and ping raises the error."""
    (tmp_path / "file").write_text("")
    async with open_url(f"vectors://{tmp_path}/file/v.db") as matrix:
        with pytest.raises(OSError, match="file"):
            await matrix.ping()


async def test_it_can_be_reopened() -> None:
    """A forge may be opened and closed more than once."""
    matrix = VectorMatrix()
    for _ in range(2):
        async with matrix:
            await matrix.put(point(1))
            assert len(await matrix.search("s", point(1).vector, limit=1)) == 1


async def test_a_search_of_a_large_matrix_costs_the_event_loop_nothing() -> None:
    """With 20,000 vectors of 1536 dimensions, a search takes less than 5 ms of CPU time of the loop's thread."""
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
    """Insert all rows at once, because 20,000 calls would take too long."""

    def add() -> None:
        rows = [(f"p{n}", "s", "f", row.tobytes(), LATER) for n, row in enumerate(block)]
        matrix._opened().executemany(
            "INSERT INTO points (id, scope, facts, vector, expires_at) VALUES (?, ?, ?, ?, ?)", rows
        )

    await matrix._run(add)
