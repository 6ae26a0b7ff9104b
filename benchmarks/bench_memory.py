"""Savings of the memory store compared with LRU, the latency of its operations, and the overhead of an entry.

    .venv/bin/python benchmarks/bench_memory.py [--json]

The trace requests designs with a Zipf distribution (1.0). Each has a component type with its own answer size and price:
most are full generations of $0.42, some are adapted patterns of cents, some large screens of dollars. Half-way the
popular designs change, as when a team starts its next project. The store holds a tenth, a twentieth or a hundredth of
all. The baseline is a dict in order of use with the same overhead per entry.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import OrderedDict
from typing import Any

from forge_otel.stores.memory import MemoryStore

BOUND = 1.1
DESIGNS = 2_000
REQUESTS = 40_000
# Share, dollars, bytes of the stored answer.
KINDS = ((0.6, 0.42, 18_600), (0.25, 0.04, 9_000), (0.1, 0.12, 4_000), (0.05, 1.60, 60_000))
CAPACITIES = {"1/10": 10, "1/20": 20, "1/100": 100}
OVERHEAD_BYTES = 512
IDLE = 200_000
SEEDS = (1, 2, 3, 4, 5)


class LeastRecentlyUsed:
    """The baseline, with the interface of the store."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._entries: OrderedDict[str, bytes] = OrderedDict()

    async def get(self, keys: list[str], /) -> list[bytes | None]:
        """Move a key that is read to the end."""
        for key in keys:
            if key in self._entries:
                self._entries.move_to_end(key)
        return [self._entries.get(key) for key in keys]

    async def set_with_cost(self, key: str, value: bytes, *, cost_usd: float) -> None:
        """Evict from the beginning."""
        del cost_usd
        self._entries[key] = value
        self._size_bytes += len(key) + len(value) + OVERHEAD_BYTES
        while self._size_bytes > self._max_bytes:
            key, value = self._entries.popitem(last=False)
            self._size_bytes -= len(key) + len(value) + OVERHEAD_BYTES


def trace(seed: int) -> tuple[list[int], list[tuple[float, int]]]:
    """Return designs in the order of their requests, with price and size of each."""
    chance = random.Random(seed)
    shares = [share for share, _, _ in KINDS]
    designs = [(usd, size) for _, usd, size in chance.choices(KINDS, shares, k=DESIGNS)]
    weights = [1 / (rank + 1) for rank in range(DESIGNS)]
    first = chance.choices(range(DESIGNS), weights, k=REQUESTS // 2)
    moved = list(range(DESIGNS))
    chance.shuffle(moved)
    return first + [moved[one] for one in chance.choices(range(DESIGNS), weights, k=REQUESTS // 2)], designs


async def replay(store: Any, seed: int) -> dict[str, float]:
    """Return hits and saved dollars."""
    requests, designs = trace(seed)
    bodies = {size: b"x" * size for _, _, size in KINDS}
    hits, saved = 0, 0.0
    started = time.process_time()
    for one in requests:
        usd, size = designs[one]
        if await store.get([f"{one:064}"]) != [None]:
            hits, saved = hits + 1, saved + usd
        else:
            await store.set_with_cost(f"{one:064}", bodies[size], cost_usd=usd)
    step_us = (time.process_time() - started) / len(requests) * 1e6
    return {"hit_rate": hits / len(requests), "saved_usd": saved, "us_per_step": step_us}


async def compare(capacity: int) -> dict[str, Any]:
    """Return the sums over all seeds."""
    sums: dict[str, dict[str, float]] = {}
    for seed in SEEDS:
        _, designs = trace(seed)
        max_bytes = sum(size for _, size in designs) // capacity
        for name, kind in (("memory store", MemoryStore), ("least recently used", LeastRecentlyUsed)):
            found = await replay(kind(max_bytes=max_bytes), seed)
            for what, value in found.items():
                sums.setdefault(name, {}).setdefault(what, 0.0)
                sums[name][what] += value / len(SEEDS)
    ratio = sums["memory store"]["saved_usd"] / sums["least recently used"]["saved_usd"]
    rounded = {name: {what: round(value, 3) for what, value in found.items()} for name, found in sums.items()}
    return rounded | {"saved_ratio": round(ratio, 3)}


def weigh() -> dict[str, float]:
    """Return resident bytes per entry besides its value, measured in a new process with keys like those of L1."""
    program = (
        "import asyncio, os\n"
        "from forge_otel.stores.memory import MemoryStore\n"
        "def rss():\n"
        "    with open('/proc/self/statm') as file: return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')\n"
        "async def main():\n"
        "    store = MemoryStore(max_bytes=2**33)\n"
        "    before = rss()\n"
        f"    for number in range({IDLE}):\n"
        "        await store.set_with_cost(f'forge:l1:{number:064x}', os.urandom(200), cost_usd=0.42)\n"
        f"    print((rss() - before) / {IDLE} - 200 - 73)\n"
        "asyncio.run(main())\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return {"entries": IDLE, "bytes_per_idle_entry": round(float(told))}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found: dict[str, Any] = {name: asyncio.run(compare(capacity)) for name, capacity in CAPACITIES.items()}
    weight = weigh()
    holds = {
        "saved": found["1/10"]["saved_ratio"] >= BOUND,
        "overhead": weight["bytes_per_idle_entry"] <= OVERHEAD_BYTES,
    }
    found |= {"idle": weight, "holds": holds}
    print(json.dumps(found, indent=2) if options.json else found)


if __name__ == "__main__":
    main()
