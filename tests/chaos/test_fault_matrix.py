"""Every helper and every fault, against the running service under load; what is promised is in cells.py."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from tests.chaos.cells import CELLS, DEFECTS, EXPORT_S
from tests.chaos.injections import AT_START, INJECTIONS
from tests.chaos.site import FRESH_PER_S, KNOWN_PER_S, Kept, Site, until

from forge_otel.testing.fault_matrix.exercise import ExerciseResult, exercise
from forge_otel.testing.fault_matrix.load import RequestResult, percentile
from forge_otel.testing.fault_matrix.matrix import Cell, timing_violations, violations

pytestmark = pytest.mark.faults

HEALTHY_S = 2.0
LOOKS = 4
FAILING_S = 2.5
PATIENCE_S = 2.0
# Where limits of time are not judged, health is there to be compared with nothing, and a slow machine may take longer.
UNTIMED_HEALTHY_S = 1.0
UNTIMED_PATIENCE_S = 30.0


def cases() -> Iterator[Any]:
    """Every cell that there is; those that are known to fail are expected to."""
    for cell in CELLS:
        marks = []
        if cell.name in DEFECTS:
            marks = [pytest.mark.xfail(reason=DEFECTS[cell.name], strict=True)]
        if cell.outcome != "n/a":
            yield pytest.param(cell, id=cell.name, marks=marks)


@pytest.mark.parametrize("cell", list(cases()))
async def test_a_cell_holds(cell: Cell, site: Site, is_timed: bool) -> None:
    """The caller is answered or clearly refused, in time; the operator sees it; all is well again without a restart."""
    times = (HEALTHY_S, PATIENCE_S) if is_timed else (UNTIMED_HEALTHY_S, UNTIMED_PATIENCE_S)
    outcome = await befall(site, cell, *times)
    report(cell, outcome)
    if is_timed and timing_violations(cell, outcome) == violations(cell, outcome) != ():
        outcome = await befall(site, cell, *times)
        report(cell, outcome)
    excused = () if is_timed else timing_violations(cell, outcome)
    assert not set(violations(cell, outcome)).difference(excused), site.log()[-3_000:]
    await nothing_is_lost(site, answers_to_find(cell, outcome), outcome.after.tallies["database"].dropped)
    if site.row.traced is not None:
        await everything_is_traced(site.row.traced, answers_to_find(cell, outcome))


async def befall(site: Site, cell: Cell, healthy_s: float, patience_s: float) -> ExerciseResult:
    """Let the cell's fault befall the service, after so long in health, and wait so much longer than is promised."""
    place = (cell.service, cell.fault)
    is_at_start = place in AT_START
    async with AsyncExitStack() as stack:
        healthy = await measured_apart(site, cell, healthy_s) if is_at_start or cell.outcome == "degraded" else None
        fault = await stack.enter_async_context(AsyncExitStack())
        if is_at_start:
            await site.stop()
            await fault.enter_async_context(INJECTIONS[place](site))
            await site.prime()
        outcome = await exercise(
            [await stack.enter_async_context(load) for load in (site.known(), site.fresh())],
            fault if is_at_start else INJECTIONS[place](site),
            observe=site.observe,
            has_recovered=site.recovery(),
            healthy=healthy,
            signs=cell.signs,
            healthy_s=healthy_s,
            failing_s=FAILING_S,
            patience_s=cell.recovery_s + patience_s,
        )
    return replace(outcome, degraded=degraded(site, outcome.failing))


async def measured_apart(site: Site, cell: Cell, healthy_s: float) -> list[RequestResult]:
    """Return the answers of the service in health that those under the fault can be compared with.

    Without its cache it generates everything: so it is compared with itself generating as much while the cache is well.
    """
    loads = [site.fresh(KNOWN_PER_S + FRESH_PER_S)] if cell.outcome == "degraded" else [site.known(), site.fresh()]
    async with AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load)
        # Looked at as often as under the fault.
        for _ in range(LOOKS):
            await asyncio.sleep(healthy_s / LOOKS)
            await site.observe()
    return [answer for load in loads for answer in load.answers]


def degraded(site: Site, answers: Sequence[RequestResult]) -> frozenset[str]:
    """Return what the records of the answers say under that name."""
    stored = site.stored()
    return frozenset(label for name in ids(answers) for label in stored.get(name, ()))


def ids(answers: Sequence[RequestResult]) -> set[str]:
    """Return the generations that were answered."""
    return {answer.kept.generation_id for answer in answers if isinstance(answer.kept, Kept)}


def answers_to_find(cell: Cell, outcome: ExerciseResult) -> Sequence[RequestResult]:
    """Return the answers that the database has to know: all, but for those that were in files which the fault took."""
    if cell.name == "SQLite-garbage":
        return outcome.recovered
    later = outcome.failing + outcome.recovering + outcome.recovered
    return later if (cell.service, cell.fault) in AT_START else outcome.healthy + later


async def nothing_is_lost(site: Site, answers: Sequence[RequestResult], dropped: int) -> None:
    """Every generation that was answered is in the database, or was counted as dropped."""
    answered = ids(answers)
    assert answered

    async def is_there() -> bool:
        return len(answered - site.stored().keys()) <= dropped

    await until(is_there, timeout_s=10.0)
    archived = site.row.archived
    if archived is not None:

        async def is_archived() -> bool:
            return site.components(answered) <= await archived()

        await until(is_archived, timeout_s=10.0, poll_s=0.2)


async def everything_is_traced(traced: Callable[[], Counter[str]], answers: Sequence[RequestResult]) -> None:
    """Every generation that was answered is one run in LangSmith, or one span at the OTLP endpoint."""
    answered = ids(answers)

    async def is_there() -> bool:
        return answered <= traced().keys()

    await until(is_there, timeout_s=EXPORT_S, poll_s=0.5)
    assert set(traced().values()) == {1}


def report(cell: Cell, outcome: ExerciseResult) -> None:
    """Print what was measured, for whoever runs this with `-s`."""
    good = sum(answer.is_good for answer in outcome.failing)
    figures = {
        "answered": f"{good}/{len(outcome.failing)}",
        "known, healthy": quantiles(outcome.latencies_s("known", healthy=True)),
        "known, failing": quantiles(outcome.latencies_s("known", healthy=False)),
        "slowest refusal": max((a.latency_s for a in outcome.failing if not a.is_good), default=None),
        "recovery": f"{outcome.recovery_s} s",
        "signs": sorted(outcome.signs),
        "signs in the end": sorted(outcome.after.signs),
        "degraded": sorted(outcome.degraded),
        "violations": violations(cell, outcome) or "passes",
    }
    print(f"\n{cell.name}: {figures}")


def quantiles(latencies_s: Sequence[float]) -> str:
    """Return the median and the 99th percentile in milliseconds."""
    return " / ".join(f"{percentile(latencies_s, share) * 1000:.0f}" for share in (0.5, 0.99))
