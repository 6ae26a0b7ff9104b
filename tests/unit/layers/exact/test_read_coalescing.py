"""Concurrent reads are batched, and each caller gets its own values."""

import asyncio
from collections.abc import Sequence

import pytest

from forge_otel.layers.exact.read_coalescing import ReadCoalescer


class Slow:
    """Returns each key as its value once `go` is set."""

    def __init__(self) -> None:
        self.reads: list[list[str]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, keys: Sequence[str]) -> list[bytes | None]:
        self.reads.append(list(keys))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return [None if key == "gone" else key.encode() for key in keys]


async def test_many_concurrent_reads_become_a_few_batches() -> None:
    """200 callers cause 4 direct reads and 2 batches, and each gets its keys in order."""
    store = Slow()
    coalescer = ReadCoalescer(store)
    tasks = [asyncio.create_task(coalescer([f"a{number % 7}", "gone", f"b{number}"])) for number in range(200)]
    await asyncio.sleep(0.01)
    assert len(store.reads) == 6
    store.go.set()
    found = await asyncio.gather(*tasks)
    assert found == [[f"a{number % 7}".encode(), None, f"b{number}".encode()] for number in range(200)]


async def test_an_error_reaches_every_caller_of_the_batch() -> None:
    """The next read is a new one."""
    store = Slow()
    store.error = ConnectionError("gone")
    coalescer = ReadCoalescer(store)
    tasks = [asyncio.create_task(coalescer(["a"])) for _ in range(10)]
    await asyncio.sleep(0.01)
    store.go.set()
    assert {type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)} == {ConnectionError}
    store.error = None
    assert await coalescer(["a"]) == [b"a"]


async def test_a_cancelled_caller_does_not_cancel_the_others() -> None:
    """Neither after a direct read nor in a batch."""
    store = Slow()
    coalescer = ReadCoalescer(store)
    tasks = [asyncio.create_task(coalescer(["a"])) for _ in range(10)]
    await asyncio.sleep(0.01)
    for task in (tasks[0], tasks[7]):
        task.cancel()
    store.go.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ends] == [number in {0, 7} for number in range(10)]


@pytest.mark.parametrize("count", [1, 4])
async def test_a_few_reads_are_sent_directly(count: int) -> None:
    """They are not batched."""
    store = Slow()
    store.go.set()
    coalescer = ReadCoalescer(store)
    assert await asyncio.gather(*(coalescer(["a"]) for _ in range(count))) == [[b"a"]] * count
    assert store.reads == [["a"]] * count
