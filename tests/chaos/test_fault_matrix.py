"""Every cell of the fault matrix against the running service under load; the promises are in cells.py."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from tests.chaos.cells import CELLS, DEFECTS, EXPORT_S
from tests.chaos.injections import AT_START, INJECTIONS
from tests.chaos.site import KNOWN_PER_S, NEW_PER_S, AnsweredGeneration, Site, until

from forge_otel.testing.fault_matrix.exercise import ExerciseResult, exercise
from forge_otel.testing.fault_matrix.load import RequestResult, percentile
from forge_otel.testing.fault_matrix.matrix import Cell, timing_violations, violations

pytestmark = pytest.mark.faults

HEALTHY_S = 2.0
HEALTHY_VIEWS = 4
FAILING_S = 2.5
EXTRA_RECOVERY_S = 2.0
# Where time limits are not checked, nothing is compared with the healthy phase, and a slow machine gets more time.
UNTIMED_HEALTHY_S = 1.0
UNTIMED_EXTRA_RECOVERY_S = 30.0


def cases() -> Iterator[Any]:
    """Yield every applicable cell; those in `DEFECTS` are expected to fail."""
    for cell in CELLS:
        marks = []
        if cell.name in DEFECTS:
            marks = [pytest.mark.xfail(reason=DEFECTS[cell.name], strict=True)]
        if cell.outcome != "n/a":
            yield pytest.param(cell, id=cell.name, marks=marks)


@pytest.mark.parametrize("cell", list(cases()))
async def test_a_cell_keeps_its_promise(cell: Cell, site: Site, is_timed: bool) -> None:
    """Callers are answered or clearly refused in time, the operator is warned, and the service recovers."""
    times = (HEALTHY_S, EXTRA_RECOVERY_S) if is_timed else (UNTIMED_HEALTHY_S, UNTIMED_EXTRA_RECOVERY_S)
    result = await run_cell(site, cell, *times)
    report(cell, result)
    if is_timed and timing_violations(cell, result) == violations(cell, result) != ():
        result = await run_cell(site, cell, *times)
        report(cell, result)
    excused = () if is_timed else timing_violations(cell, result)
    assert not set(violations(cell, result)).difference(excused), site.log()[-3_000:]
    await check_records(site, results_with_records(cell, result), result.after.sinks["database"].dropped)
    if site.row.traced is not None:
        await check_traces(site.row.traced, results_with_records(cell, result))


async def run_cell(site: Site, cell: Cell, healthy_s: float, extra_recovery_s: float) -> ExerciseResult:
    """Inject the fault of a cell after `healthy_s`, and wait for its recovery time plus `extra_recovery_s`."""
    position = (cell.dependency, cell.fault)
    is_at_start = position in AT_START
    async with AsyncExitStack() as stack:
        healthy = await healthy_results(site, cell, healthy_s) if is_at_start or cell.outcome == "degraded" else None
        fault = await stack.enter_async_context(AsyncExitStack())
        if is_at_start:
            await site.stop()
            await fault.enter_async_context(INJECTIONS[position](site))
            await site.warm_up()
        result = await exercise(
            [await stack.enter_async_context(load) for load in (site.known_load(), site.new_load())],
            fault if is_at_start else INJECTIONS[position](site),
            observe=site.observe,
            has_recovered=site.recovery(),
            healthy=healthy,
            warnings=cell.warnings,
            healthy_s=healthy_s,
            failing_s=FAILING_S,
            timeout_s=cell.recovery_s + extra_recovery_s,
        )
    return replace(result, degraded=degraded_labels(site, result.failing))


async def healthy_results(site: Site, cell: Cell, healthy_s: float) -> list[RequestResult]:
    """Return the results without the fault that those under it are compared with.

    Without its cache the service generates everything, so it is compared with itself generating as much.
    """
    if cell.outcome == "degraded":
        loads = [site.new_load(KNOWN_PER_S + NEW_PER_S)]
    else:
        loads = [site.known_load(), site.new_load()]
    async with AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load)
        # Observed as often as under the fault.
        for _ in range(HEALTHY_VIEWS):
            await asyncio.sleep(healthy_s / HEALTHY_VIEWS)
            await site.observe()
    return [result for load in loads for result in load.results]


def degraded_labels(site: Site, results: Sequence[RequestResult]) -> frozenset[str]:
    """Return the labels in `degraded` of the records of `results`."""
    stored = site.stored()
    return frozenset(label for name in generation_ids(results) for label in stored.get(name, ()))


def generation_ids(results: Sequence[RequestResult]) -> set[str]:
    """Return the ids of the answered generations."""
    return {one.extracted.generation_id for one in results if isinstance(one.extracted, AnsweredGeneration)}


def results_with_records(cell: Cell, result: ExerciseResult) -> Sequence[RequestResult]:
    """Return the results whose records must be in the database after the fault."""
    # Records of earlier results may be in files that the fault has replaced.
    if cell.name == "SQLite-garbage":
        return result.recovered
    later = result.failing + result.recovering + result.recovered
    return later if (cell.dependency, cell.fault) in AT_START else result.healthy + later


async def check_records(site: Site, results: Sequence[RequestResult], dropped: int) -> None:
    """Check that every answered generation is in the database or counted as dropped, and archived."""
    answered = generation_ids(results)
    assert answered

    async def is_stored() -> bool:
        return len(answered - site.stored().keys()) <= dropped

    await until(is_stored, timeout_s=10.0)
    archived = site.row.archived
    if archived is not None:

        async def is_archived() -> bool:
            return site.components(answered) <= await archived()

        await until(is_archived, timeout_s=10.0, poll_s=0.2)


async def check_traces(traced: Callable[[], Counter[str]], results: Sequence[RequestResult]) -> None:
    """Check that every answered generation is one run in LangSmith, or one span at the OTLP endpoint."""
    answered = generation_ids(results)

    async def is_traced() -> bool:
        return answered <= traced().keys()

    await until(is_traced, timeout_s=EXPORT_S, poll_s=0.5)
    assert set(traced().values()) == {1}


def report(cell: Cell, result: ExerciseResult) -> None:
    """Print the measurements; pytest shows them with `-s`."""
    succeeded = sum(one.is_success for one in result.failing)
    figures = {
        "answered": f"{succeeded}/{len(result.failing)}",
        "known, healthy": quantiles(result.latencies_s("known", healthy=True)),
        "known, failing": quantiles(result.latencies_s("known", healthy=False)),
        "slowest refusal": max((one.latency_s for one in result.failing if not one.is_success), default=None),
        "recovery": f"{result.recovery_s} s",
        "warnings": sorted(result.warnings),
        "warnings at the end": sorted(result.after.warnings),
        "degraded": sorted(result.degraded),
        "violations": violations(cell, result) or "none",
    }
    print(f"\n{cell.name}: {figures}")


def quantiles(latencies_s: Sequence[float]) -> str:
    """Return the median and the 99th percentile in milliseconds."""
    return " / ".join(f"{percentile(latencies_s, fraction) * 1000:.0f}" for fraction in (0.5, 0.99))
