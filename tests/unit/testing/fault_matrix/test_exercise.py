"""The exercise of a fault: assignment of results to phases, recovery and warnings."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from forge_otel.testing.fault_matrix.exercise import OperatorView, exercise
from forge_otel.testing.fault_matrix.load import Load


async def test_results_belong_to_the_phase_in_which_they_were_due() -> None:
    """Requests before, during and after the fault are separated, and the recovery is timed."""
    status = 200

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        nonlocal status
        status = 503
        yield
        status = 200

    async def send(_number: int) -> httpx.Response:
        return httpx.Response(status, json={})

    async def observe() -> OperatorView:
        return OperatorView(warnings=frozenset({"down"} if status == 503 else ()))

    async def has_recovered() -> bool:
        return status == 200

    async with Load(send, rate_per_s=100) as load:
        result = await exercise(
            [load], fault(), observe=observe, has_recovered=has_recovered, healthy_s=0.3, failing_s=0.6
        )
    assert {one.status for one in result.healthy} == {200}
    assert {one.status for one in result.failing} == {503}
    assert {one.status for one in result.recovered} == {200}
    assert result.warnings == {"down"}
    assert result.after.warnings == frozenset()
    assert result.recovery_s is not None


async def test_the_fault_lasts_until_its_warning_was_seen() -> None:
    """A late warning is awaited, a missing one until the timeout."""
    views = 0

    async def observe() -> OperatorView:
        nonlocal views
        views += 1
        return OperatorView(warnings=frozenset({"late"} if views > 3 else ()))

    async def has_recovered() -> bool:
        return True

    async def warnings_seen(expected: str, *, timeout_s: float) -> frozenset[str]:
        result = await exercise(
            [],
            AsyncExitStack(),
            observe=observe,
            has_recovered=has_recovered,
            warnings=[expected],
            healthy_s=0.0,
            failing_s=0.0,
            timeout_s=timeout_s,
        )
        return result.warnings

    assert "late" in await warnings_seen("late", timeout_s=60.0)
    assert "never" not in await warnings_seen("never", timeout_s=0.5)


async def test_a_service_that_does_not_recover_is_reported() -> None:
    """After the timeout the recovery time is None."""

    async def observe() -> OperatorView:
        return OperatorView()

    async def has_recovered() -> bool:
        return False

    result = await exercise(
        [],
        AsyncExitStack(),
        observe=observe,
        has_recovered=has_recovered,
        healthy_s=0.0,
        failing_s=0.0,
        timeout_s=0.3,
    )
    assert result.recovery_s is None
