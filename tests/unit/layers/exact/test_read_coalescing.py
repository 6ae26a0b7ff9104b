"""Reads that many make at once go out together, and nobody gets what is not theirs."""

import asyncio
from collections.abc import Sequence

import pytest

from forge_otel.layers.exact.read_coalescing import ReadCoalescer


class Slow:
    """Answers when it is let go, each key with itself."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, keys: Sequence[str]) -> list[bytes | None]:
        self.asked.append(list(keys))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return [None if key == "gone" else key.encode() for key in keys]


async def test_a_herd_is_a_few_reads() -> None:
    """200 callers: a few by themselves, the rest in two, and everybody gets its own keys in their order."""
    store = Slow()
    reads = ReadCoalescer(store)
    tasks = [asyncio.create_task(reads([f"a{number % 7}", "gone", f"b{number}"])) for number in range(200)]
    await asyncio.sleep(0.01)
    assert len(store.asked) == 6
    store.go.set()
    found = await asyncio.gather(*tasks)
    assert found == [[f"a{number % 7}".encode(), None, f"b{number}".encode()] for number in range(200)]


async def test_an_error_is_everybodys() -> None:
    """And the next read is a new one."""
    store = Slow()
    store.error = ConnectionError("gone")
    reads = ReadCoalescer(store)
    tasks = [asyncio.create_task(reads(["a"])) for _ in range(10)]
    await asyncio.sleep(0.01)
    store.go.set()
    assert {type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)} == {ConnectionError}
    store.error = None
    assert await reads(["a"]) == [b"a"]


async def test_a_caller_who_leaves_takes_nobody_along() -> None:
    """Neither one of those who read together."""
    store = Slow()
    reads = ReadCoalescer(store)
    tasks = [asyncio.create_task(reads(["a"])) for _ in range(10)]
    await asyncio.sleep(0.01)
    for task in (tasks[0], tasks[7]):
        task.cancel()
    store.go.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ends] == [number in {0, 7} for number in range(10)]


@pytest.mark.parametrize("count", [1, 4])
async def test_a_few_are_not_held_up(count: int) -> None:
    """They are sent at once, each by itself."""
    store = Slow()
    store.go.set()
    reads = ReadCoalescer(store)
    assert await asyncio.gather(*(reads(["a"]) for _ in range(count))) == [[b"a"]] * count
    assert store.asked == [["a"]] * count
