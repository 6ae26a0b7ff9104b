"""Exercise of a fault: a service under load whose dependency fails for a while and recovers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from forge_otel.testing.fault_matrix.load import Load, RequestResult, percentile

__all__ = ["ExerciseResult", "OperatorView", "SinkTotals", "exercise"]

_POLL_S: Final = 0.25
_OBSERVE_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkTotals:
    """Record counts of one sink of the outbox, as on the metrics page."""

    produced: int
    delivered: int
    waiting: int
    dropped: int = 0

    @property
    def is_balanced(self) -> bool:
        """Return whether every produced record is delivered, waiting or dropped."""
        return self.produced == self.delivered + self.waiting + self.dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorView:
    """The state of a service as an operator sees it at one moment.

    Args:
        warnings: names of the health checks that do not pass.
        sinks: record counts by sink.
    """

    warnings: frozenset[str] = frozenset()
    sinks: Mapping[str, SinkTotals] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExerciseResult:
    """The results of requests before, during and after a fault, and the operator's views.

    Args:
        healthy: results that latencies are compared with.
        failing: results of requests that were due during the fault.
        recovering: results of requests that were due between the end of the fault and the recovery.
        recovered: results of requests that were due after the recovery.
        recovery_s: seconds from the end of the fault to the recovery; None if the service did not recover in time.
        during: views during the fault.
        after: view at the end.
        degraded: labels in the field `degraded` of the records of `failing`, filled in by a caller that can read them.
    """

    healthy: tuple[RequestResult, ...]
    failing: tuple[RequestResult, ...]
    recovering: tuple[RequestResult, ...] = ()
    recovered: tuple[RequestResult, ...] = ()
    recovery_s: float | None
    during: tuple[OperatorView, ...] = ()
    after: OperatorView = field(default_factory=OperatorView)
    degraded: frozenset[str] = frozenset()

    @property
    def warnings(self) -> frozenset[str]:
        """Every warning that was seen during the fault."""
        return frozenset().union(*(view.warnings for view in self.during))

    def latencies_s(self, load: str, *, healthy: bool) -> list[float]:
        """Return the latencies of successful requests.

        Args:
            load: name of a load.
            healthy: True for `healthy`, False for `failing`. If `healthy` was measured with another load, its
                latencies are returned.
        """
        results = self.healthy if healthy else self.failing
        names = {result.load for result in results}
        name = load if load in names else min(names)
        return [result.latency_s for result in results if result.is_success and result.load == name]

    def added_s(self, load: str, *, fraction: float = 0.99) -> float:
        """Return the seconds that the fault added to a percentile of the latencies of a load."""
        failing, healthy = (self.latencies_s(load, healthy=side) for side in (False, True))
        # The difference within one run, because a limit on the latency itself would not hold on a slow machine.
        return percentile(failing, fraction) - percentile(healthy, fraction)

    def noise_s(self, load: str) -> float:
        """Return the difference between the 99th percentile and the median of a load without the fault."""
        latencies_s = self.latencies_s(load, healthy=True)
        return percentile(latencies_s, 0.99) - percentile(latencies_s, 0.5)


async def exercise(
    loads: Sequence[Load],
    fault: AbstractAsyncContextManager[Any],
    *,
    observe: Callable[[], Awaitable[OperatorView]],
    has_recovered: Callable[[], Awaitable[bool]],
    healthy: Sequence[RequestResult] | None = None,
    warnings: Collection[str] = (),
    healthy_s: float = 2.0,
    failing_s: float = 3.0,
    timeout_s: float = 30.0,
) -> ExerciseResult:
    """Inject a fault into a dependency of a service under load, and record the results.

    Args:
        loads: loads that are running.
        fault: injects the fault while it is entered: until the warnings were seen and its requests have ended.
        observe: reads the operator's view from the service.
        has_recovered: returns whether the service has recovered; polled after the fault.
        healthy: results to compare latencies with; None records them before the fault.
        warnings: expected warnings.
        healthy_s: seconds to run before the fault; half as long after the recovery.
        failing_s: shortest duration of the fault in seconds.
        timeout_s: longest time to wait for the warnings, and for the recovery, in seconds.
    """
    # Observed without the fault as well, so that both sides of each comparison have the cost of observing.
    async with _observed(observe) as views:
        began_s = time.monotonic()
        await asyncio.sleep(0 if healthy is not None else healthy_s)
        healthy_until_s = time.monotonic()
        # Requests in flight at the beginning of the fault belong to neither side.
        await _drain(loads, healthy_until_s)
        views.clear()
        failing_from_s = time.monotonic()
        async with fault:
            await asyncio.sleep(failing_s)
            await _await_warnings(views, warnings, timeout_s)
            failing_until_s = time.monotonic()
            # Inside the fault, so that the recovered dependency serves no request that was due under it.
            await _drain(loads, failing_until_s)
            during = tuple(views)
    lifted_s = time.monotonic()
    recovery_s = await _await_recovery(has_recovered, timeout_s)
    recovered_s = time.monotonic()
    await asyncio.sleep(healthy_s / 2)
    ended_s = time.monotonic()
    await _drain(loads, ended_s)

    def between(from_s: float, until_s: float) -> tuple[RequestResult, ...]:
        return tuple(result for load in loads for result in load.results if from_s <= result.due_s < until_s)

    return ExerciseResult(
        healthy=between(began_s, healthy_until_s) if healthy is None else tuple(healthy),
        failing=between(failing_from_s, failing_until_s),
        recovering=between(lifted_s, recovered_s),
        recovered=between(recovered_s, ended_s),
        recovery_s=recovery_s,
        during=during,
        after=await observe(),
    )


async def _drain(loads: Sequence[Load], due_before_s: float) -> None:
    await asyncio.gather(*(load.drain(due_before_s) for load in loads))


async def _await_warnings(views: Sequence[OperatorView], warnings: Collection[str], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while set(warnings).difference(*(view.warnings for view in views)) and time.monotonic() < deadline_s:
        await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def _observed(observe: Callable[[], Awaitable[OperatorView]]) -> AsyncIterator[list[OperatorView]]:
    """Observe repeatedly inside the block, and yield the list that the views are added to."""
    views: list[OperatorView] = []

    async def poll() -> None:
        while True:
            views.append(await observe())
            await asyncio.sleep(_OBSERVE_EVERY_S)

    polling = asyncio.create_task(poll())
    try:
        yield views
    finally:
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling


async def _await_recovery(has_recovered: Callable[[], Awaitable[bool]], timeout_s: float) -> float | None:
    """Return the seconds until the service has recovered, None after `timeout_s`."""
    lifted_s = time.monotonic()
    while not await has_recovered():
        if time.monotonic() - lifted_s > timeout_s:
            return None
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - lifted_s
