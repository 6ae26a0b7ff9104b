"""Journals damaged at random places between two starts: no start fails, and every lost record is counted.

The environment variable DAMAGE_ROUNDS sets the number of damaged files for each kind of damage.
"""

import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel.outbox.outbox import Outbox, OutboxOptions
from forge_otel.types import Record

ROUNDS: Final = int(os.environ.get("DAMAGE_ROUNDS", "8"))
LONGEST_RUN_BYTES: Final = 6_000
MOST_LOST: Final = 10
"""Maximum number of records on the damaged pages."""
OFF_BY: Final = 3
"""Tolerance of the count of lost records: the number on the last page is unknown."""


def outbox(directory: Path, sink: ListSink) -> Outbox:
    """Return an outbox with the usual limits."""
    return Outbox([sink], OutboxOptions(directory=directory, max_bytes=2**26, shutdown_timeout_s=0.5))


async def left_behind(directory: Path, records: list[Record], *, is_killed: bool) -> Path:
    """Return the folder of a service that ended while its sink was unavailable, with its log if it was killed."""
    sink = ListSink()
    sink.fault = ConnectionError("down")
    async with outbox(directory / "living", sink) as box:
        for item in records:
            await box.offer(item)
        shutil.copytree(directory / "living", directory / "killed")
    return directory / ("killed" if is_killed else "living")


def changed(content: bytearray, chance: random.Random) -> None:
    """Change a few bytes."""
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] ^= chance.randint(1, 255)


def overwritten(content: bytearray, chance: random.Random) -> None:
    """Overwrite a run of bytes with noise or zeros."""
    length = chance.randint(1, LONGEST_RUN_BYTES)
    start = chance.randrange(len(content))
    run = chance.choice([chance.randbytes(length), bytes(length)])
    content[start : start + length] = run[: len(content) - start]


def cut(content: bytearray, chance: random.Random) -> None:
    """Remove the end."""
    del content[chance.randrange(len(content)) :]


def shifted(content: bytearray, chance: random.Random) -> None:
    """Remove some bytes in the middle."""
    start = chance.randrange(len(content))
    del content[start : start + chance.randint(1, LONGEST_RUN_BYTES)]


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("damage", [changed, overwritten, cut, shifted])
async def test_damage_anywhere_is_survived_and_counted(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytearray, random.Random], None],
    is_killed: bool,
) -> None:
    """Delivered records are unchanged and delivered once; missing ones are counted as damaged and logged."""
    caplog.set_level(logging.WARNING)
    offered = [record(artifacts={"component.tsx": "x" * size}) for size in range(100, 12_000, 300)]
    whole = await left_behind(tmp_path, offered, is_killed=is_killed)
    by_id = {item.id: item for item in offered}
    for seed in range(ROUNDS):
        caplog.clear()
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        shutil.copytree(whole, folder)
        [*files] = (path for path in sorted(folder.glob("*.journal*")) if path.stat().st_size)
        victim = chance.choice(files)
        content = bytearray(victim.read_bytes())
        damage(content, chance)
        victim.write_bytes(content)

        sink, fresh = ListSink(), record()
        async with outbox(folder, sink) as box:
            await box.offer(fresh)
            await eventually(lambda sink=sink, fresh=fresh: fresh.id in sink.ids)
            await eventually(lambda box=box: not box.stats().sinks["list"].waiting)
            stats = box.stats().sinks["list"]

        found = [item for item in sink.records if item != fresh]
        missing = len(offered) - len(found)
        details = f"seed {seed}: {victim.name}, {missing} missing, {dict(stats.dropped)}"
        assert len({item.id for item in found}) == len(found), details
        assert all(by_id[item.id] == item for item in found), details
        assert stats.produced == stats.delivered + sum(stats.dropped.values()), details
        assert stats.dropped.keys() <= {"damaged"}, details
        assert not missing or "damaged" in caplog.text.lower(), details
        # The number of records in missing bytes is unknown.
        if damage in (changed, overwritten):
            assert missing <= MOST_LOST, details
            assert abs(stats.dropped.get("damaged", 0) - missing) <= OFF_BY, details
        else:
            assert bool(missing) == bool(stats.dropped), details
