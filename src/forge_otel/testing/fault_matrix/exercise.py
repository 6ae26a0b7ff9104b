"""A service under load whose helper fails for a while and comes back: what callers got, and what operators saw.

What a fault adds to latencies is told against the same service in health, in the same run, so that limits on it hold
on a slow machine too.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from forge_otel.testing.fault_matrix.load import Load, RequestResult, percentile

__all__ = ["ExerciseResult", "OperatorView", "SinkTotals", "exercise"]

_POLL_S: Final = 0.25
_OBSERVE_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkTotals:
    """The books of an outbox for one sink; see `forge_otel.outbox.outbox.SinkStats`."""

    produced: int
    delivered: int
    waiting: int
    dropped: int = 0

    @property
    def is_balanced(self) -> bool:
        """Whether nothing is unaccounted for."""
        return self.produced == self.delivered + self.waiting + self.dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorView:
    """What an operator sees at one moment.

    Args:
        signs: of trouble, in the words of `Cell.signs`.
        tallies: by sink.
    """

    signs: frozenset[str] = frozenset()
    tallies: Mapping[str, SinkTotals] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExerciseResult:
    """What came of a fault.

    Args:
        healthy: the answers that latencies are compared with.
        failing: to requests that were due while the fault lasted.
        recovering: to requests from its end until all was as before.
        recovered: to requests after that.
        recovery_s: seconds from the end of the fault until all was as before; None: it did not come to that.
        during: what an operator saw while the fault lasted.
        after: and in the end.
        degraded: what the records of the failing answers say under this name, from whoever can read the records.
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
    def signs(self) -> frozenset[str]:
        """Every sign that was seen while the fault lasted."""
        return frozenset().union(*(seen.signs for seen in self.during))

    def latencies_s(self, load: str, *, healthy: bool) -> list[float]:
        """Return how long good answers took.

        Args:
            load: the name of a load.
            healthy: in health, or while the fault lasted; if health was measured with another load, of that one.
        """
        answers = self.healthy if healthy else self.failing
        names = {answer.load for answer in answers}
        return [a.latency_s for a in answers if a.is_good and a.load == (load if load in names else min(names))]

    def added_s(self, load: str, *, share: float = 0.99) -> float:
        """Return what the fault added to a percentile of the latency of a load's good answers."""
        failing, healthy = (self.latencies_s(load, healthy=side) for side in (False, True))
        return percentile(failing, share) - percentile(healthy, share)

    def noise_s(self, load: str) -> float:
        """Return by how much the 99th percentile of a load is above its median in health, in this run."""
        latencies_s = self.latencies_s(load, healthy=True)
        return percentile(latencies_s, 0.99) - percentile(latencies_s, 0.5)


async def exercise(
    loads: Sequence[Load],
    fault: AbstractAsyncContextManager[Any],
    *,
    observe: Callable[[], Awaitable[OperatorView]],
    has_recovered: Callable[[], Awaitable[bool]],
    healthy: Sequence[RequestResult] | None = None,
    signs: Collection[str] = (),
    healthy_s: float = 2.0,
    failing_s: float = 3.0,
    patience_s: float = 30.0,
) -> ExerciseResult:
    """Let a helper of a service under load fail for a while, and see what comes of it.

    Args:
        loads: already running.
        fault: lasts while it is entered.
        observe: asks the service what its operator would see.
        has_recovered: asks whether all is as it was; called after the fault, again and again.
        healthy: answers to compare latencies with, where the same load in health is not the right thing.
        signs: of trouble that are expected.
        healthy_s: seconds to watch the service in health before the fault, and half as long after it.
        failing_s: seconds that the fault lasts at least; it lasts until these signs were seen, and all that was asked
            in it is answered.
        patience_s: seconds to wait for the signs, and for the recovery.
    """
    # Observed in health too, so that what observing costs is on both sides of every comparison.
    async with _watched(observe) as seen:
        began_s = time.monotonic()
        await asyncio.sleep(0 if healthy is not None else healthy_s)
        healthy_until_s = time.monotonic()
        # What is in flight when the helper fails belongs to neither.
        await _settled(loads, healthy_until_s)
        seen.clear()
        failing_from_s = time.monotonic()
        async with fault:
            await asyncio.sleep(failing_s)
            await _shown(seen, signs, patience_s)
            failed_until_s = time.monotonic()
            await _settled(loads, failed_until_s)
            during = tuple(seen)
    lifted_s = time.monotonic()
    recovery_s = await _recovery(has_recovered, patience_s)
    recovered_s = time.monotonic()
    await asyncio.sleep(healthy_s / 2)
    ended_s = time.monotonic()
    await _settled(loads, ended_s)

    def between(from_s: float, until_s: float) -> tuple[RequestResult, ...]:
        return tuple(answer for load in loads for answer in load.answers if from_s <= answer.due_s < until_s)

    return ExerciseResult(
        healthy=between(began_s, healthy_until_s) if healthy is None else tuple(healthy),
        failing=between(failing_from_s, failed_until_s),
        recovering=between(lifted_s, recovered_s),
        recovered=between(recovered_s, ended_s),
        recovery_s=recovery_s,
        during=during,
        after=await observe(),
    )


async def _settled(loads: Sequence[Load], until_s: float) -> None:
    await asyncio.gather(*(load.settle(until_s) for load in loads))


async def _shown(seen: Sequence[OperatorView], signs: Collection[str], patience_s: float) -> None:
    """Wait until an operator has seen the signs, or for so long in vain."""
    deadline_s = time.monotonic() + patience_s
    while set(signs).difference(*(look.signs for look in seen)) and time.monotonic() < deadline_s:
        await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def _watched(observe: Callable[[], Awaitable[OperatorView]]) -> AsyncIterator[list[OperatorView]]:
    """Observe again and again inside the block."""
    seen: list[OperatorView] = []

    async def watch() -> None:
        while True:
            seen.append(await observe())
            await asyncio.sleep(_OBSERVE_S)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _recovery(has_recovered: Callable[[], Awaitable[bool]], patience_s: float) -> float | None:
    """Return after how many seconds all was as before, or None."""
    lifted_s = time.monotonic()
    while not await has_recovered():
        if time.monotonic() - lifted_s > patience_s:
            return None
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - lifted_s
