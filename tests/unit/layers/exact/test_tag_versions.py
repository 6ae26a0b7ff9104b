"""Missing epochs are made once for all who miss them, in few steps."""

import asyncio
from collections.abc import Mapping

import pytest

from forge_otel.layers.exact.layer import unguarded
from forge_otel.layers.exact.tag_versions import TagVersions, tag_version_key
from forge_otel.stores.memory import MemoryStore


class Counting(MemoryStore):
    """A store that adds several values in one step, and counts these."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**20)
        self.steps: list[int] = []
        self.is_down = False

    async def add_all(self, values: Mapping[str, bytes]) -> list[bytes]:
        self.steps.append(len(values))
        await asyncio.sleep(0)
        if self.is_down:
            raise ConnectionError
        return [await self.add(key, value) for key, value in values.items()]


async def test_who_asks_at_once_shares_one_step() -> None:
    """Everybody gets the epoch that is stored."""
    store = Counting()
    versions = TagVersions(store, guard=unguarded)
    found = await asyncio.gather(*(versions.create_missing(["all", f"tokens:{number}"]) for number in range(50)))
    assert store.steps == [51]
    assert {one[0] for one in found} == {(await store.get([tag_version_key("all")]))[0]}
    assert len({one[1] for one in found}) == 50


async def test_a_herd_takes_steps_of_a_hundred() -> None:
    """None of them is large enough to hold the others up."""
    store = Counting()
    await TagVersions(store, guard=unguarded).create_missing([str(number) for number in range(250)])
    assert store.steps == [100, 100, 50]


async def test_the_first_to_make_one_wins() -> None:
    """Another process was faster."""
    store = Counting()
    await store.add(tag_version_key("all"), b"theirs")
    assert await TagVersions(store, guard=unguarded).create_missing(["all"]) == [b"theirs"]


async def test_a_store_without_batches_is_asked_one_by_one() -> None:
    """A third party's store has `add` alone."""
    store = MemoryStore(max_bytes=2**20)
    made = await TagVersions(store, guard=unguarded).create_missing(["a", "b"])
    assert await store.get([tag_version_key("a"), tag_version_key("b")]) == list(made)


async def test_an_error_is_everybodys_and_forgotten() -> None:
    """The next one asks again."""
    store = Counting()
    versions = TagVersions(store, guard=unguarded)
    store.is_down = True
    ends = await asyncio.gather(*(versions.create_missing(["all"]) for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [ConnectionError] * 3
    store.is_down = False
    assert await versions.create_missing(["all"])


async def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    """A cancelled caller, and one that waits on."""
    versions = TagVersions(Counting(), guard=unguarded)
    leaving, staying = (asyncio.create_task(versions.create_missing(["all"])) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await staying
