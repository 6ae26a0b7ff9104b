"""Rejected calls take no memory."""

import gc
from pathlib import Path

import pytest

from forge_otel.errors import CircuitOpen
from forge_otel.resilience.guard import Guard
from forge_otel.resilience.policies import Policies

STATUS = Path("/proc/self/status")
REJECTIONS = 1_000_000
MAX_GROWTH_KB = 2048


def resident_kb() -> int:
    """Return the resident memory of this process in kB."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def never() -> None:
    """Fail the test: the service must not be reached."""
    raise AssertionError


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="no /proc/self/status to read the resident memory from")
async def test_a_million_rejections_leave_the_memory_flat() -> None:
    """purgatory keeps the frames of every rejected request: 20,000 of them take 238 MB."""
    guard = Guard("svc", Policies())
    guard.admission.set_mode("forced_open")

    async def request() -> None:
        payload = bytearray(10_000)
        try:
            await guard.call(never)
        except CircuitOpen:
            payload.clear()

    for _ in range(20_000):
        await request()
    gc.collect()
    before_kb = resident_kb()
    for _ in range(REJECTIONS):
        await request()
    gc.collect()
    assert guard.admission.state().rejected == REJECTIONS + 20_000
    assert resident_kb() - before_kb < MAX_GROWTH_KB
