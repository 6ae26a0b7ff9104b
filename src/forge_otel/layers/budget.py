"""The layer that keeps spending within limits: money and tokens a UTC day, of everybody, a tenant, a user, a session.

A generation reserves what it is expected to cost before it runs, and is charged what it did cost when it ends, however
it ends. So callers at the same moment, in all workers that share a store, overspend a limit by at most the sum of what
the running generations cost beyond their reservation: nothing, where none costs more. At the edge of a limit a caller
may be refused for a reservation that is given back a moment later, never the other way round.

What is answered from a cache costs nothing and never gets here. A call whose price is unknown is charged its
reservation. A process that is killed leaves its reservations charged until the day ends. While the store is away each
worker counts by itself, and so may spend each limit once more; the record then says `budget:local`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final, Literal, Self

from opentelemetry import trace

from forge_otel.context import Generation, current_generation, identity
from forge_otel.errors import BudgetExceeded
from forge_otel.keys import digest
from forge_otel.names import Attr, Metric
from forge_otel.resilience.time_budget import behind
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, CallNext, Reply
from forge_otel.types.capabilities import SupportsIncrement

__all__ = ["BudgetLayer", "BudgetOptions", "Spend"]

_DAY_S: Final = 86_400
_KEPT_S: Final = 2.0 * _DAY_S
_MICRO: Final = 1_000_000
LOCAL: Final = "budget:local"


class Spend:
    """Counters in this process."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._day = ""

    async def increment(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters; those of earlier days are forgotten."""
        del ttl_s
        for key, amount in amounts.items():
            day = key.split(":")[2]
            if day > self._day:
                self._day, self._counts = day, {}
            self._counts[key] = self._counts.get(key, 0) + amount
        return [self._counts.get(key, 0) for key in amounts]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOptions:
    """The limits of one UTC day; None is no limit.

    Args:
        usd, tokens: scope to limit; scopes are `all`, `tenant`, `user` and `session`.
        mode: `refuse` answers 429 beyond a limit, `warn` only says so.
        reserve_usd, reserve_tokens: what one generation is expected to cost at most.
    """

    usd: Mapping[str, Decimal | None]
    tokens: Mapping[str, int | None]
    mode: Literal["warn", "refuse"] = "refuse"
    reserve_usd: Decimal = Decimal("0.50")
    reserve_tokens: int = 50_000


@dataclass(frozen=True, slots=True)
class _Limit:
    scope: str
    unit: str
    key: str
    most: int
    reserved: int


class BudgetLayer:
    """The layer.

    Args:
        options: the limits.
        store: counts for all workers; None counts in this process.
        instruments: where decisions are counted.
        guard: `await guard(function, *args)` calls the store within its deadline and breaker.
        clock_s: the wall clock, because the day is the calendar's.
    """

    def __init__(
        self,
        options: BudgetOptions,
        *,
        store: SupportsIncrement | None,
        instruments: Instruments,
        guard: Callable[..., Awaitable[Any]],
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._store = store
        self._instruments = instruments
        self._guard = guard
        self._clock_s = clock_s
        self._local = Spend()
        # Holds the tasks too: the event loop keeps only weak references.
        self._settling: set[asyncio.Task[None]] = set()

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Let the call pass if the limits allow it, and charge what it cost.

        Raises:
            BudgetExceeded: a limit is reached.
        """
        limits = self._limits(call)
        generation = current_generation.get()
        if not limits or generation is None:
            return await call_next(call)
        exceeded = await self._reserve(limits)
        self._say(exceeded)
        if exceeded is not None and self._options.mode == "refuse":
            await self._charge({limit.key: -limit.reserved for limit in limits})
            raise self._refusal(exceeded)
        before = len(generation.costs)
        try:
            return await call_next(call)
        finally:
            # A task of its own: also a cancelled caller's spending is charged.
            task = behind(self._charge(_settlement(limits, generation, before)))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def settled(self) -> None:
        """Return when everything that has ended is charged."""
        while self._settling:
            await asyncio.wait(self._settling)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.settled()

    async def used(self) -> Mapping[str, Any]:
        """Return what everybody together has used today, JSON-ready, reservations included."""
        limits = [limit for limit in self._limits(None) if limit.scope == "all"]
        counts = await self._add({limit.key: 0 for limit in limits}) if limits else []
        shown = dict.fromkeys(("usd", "tokens"), None) | {
            limit.unit: {"used": _shown(limit, count), "limit": _shown(limit, limit.most)}
            for limit, count in zip(limits, counts, strict=True)
        }
        return shown | {"mode": self._options.mode, "resets_in_s": self._resets_in_s()}

    def _limits(self, call: Call | None) -> list[_Limit]:
        day = datetime.fromtimestamp(self._clock_s(), UTC).strftime("%Y%m%d")
        return [
            _Limit(scope, unit, f"forge:budget:{day}:{digest([scope, who, unit])}", most, reserved)
            for scope, who in _whose(call).items()
            for unit, most, reserved in (
                ("usd", self._options.usd.get(scope), self._options.reserve_usd),
                ("tokens", self._options.tokens.get(scope), self._options.reserve_tokens),
            )
            if most is not None
            for most, reserved in [(_count(unit, most), _count(unit, reserved))]
        ]

    async def _reserve(self, limits: list[_Limit]) -> _Limit | None:
        """Reserve for one generation; return the limit that this went beyond."""
        counts = await self._add({limit.key: limit.reserved for limit in limits})
        beyond = (limit for limit, count in zip(limits, counts, strict=True) if count > limit.most)
        return next(beyond, None)

    async def _charge(self, amounts: Mapping[str, int]) -> None:
        await self._add(amounts)

    async def _add(self, amounts: Mapping[str, int]) -> list[int]:
        # Counted here as well, so that a worker that loses the store goes on from what it spent itself.
        local = await self._local.increment(amounts, ttl_s=_KEPT_S)
        if self._store is None:
            return local
        try:
            counts: list[int] = await self._guard(self._store.increment, amounts, ttl_s=_KEPT_S)
        except Exception:
            generation = current_generation.get()
            if generation is not None:
                generation.record_degraded(LOCAL)
            return local
        return counts

    def _say(self, exceeded: _Limit | None) -> None:
        outcome = "admitted" if exceeded is None else "refused" if self._options.mode == "refuse" else "warned"
        scope = "none" if exceeded is None else exceeded.scope
        self._instruments.add(Metric.BUDGET_DECISIONS, 1, {Attr.BUDGET_SCOPE: scope, Attr.OUTCOME: outcome})
        if exceeded is not None:
            trace.get_current_span().set_attribute(Attr.BUDGET_SCOPE, scope)

    def _refusal(self, limit: _Limit) -> BudgetExceeded:
        whose = "all callers together" if limit.scope == "all" else f"this {limit.scope}"
        most = f"{_shown(limit, limit.most)} {'USD' if limit.unit == 'usd' else 'tokens'}"
        return BudgetExceeded(
            f"the day's budget of {whose} ({most}) is used up; it begins anew at 00:00 UTC",
            scope=limit.scope,
            retry_after_s=self._resets_in_s(),
        )

    def _resets_in_s(self) -> float:
        return _DAY_S - self._clock_s() % _DAY_S


def _whose(call: Call | None) -> dict[str, str]:
    if call is None:
        return {"all": ""}
    who, request = identity.get(), call.request
    found = {
        "tenant": request.tenant or who.tenant,
        "user": request.user_id or who.user_id,
        "session": request.session_id or who.session_id,
    }
    # A user of one tenant is not the user of that name of another.
    tenant = found["tenant"] or ""
    named = {scope: f"{tenant}\0{name}" for scope, name in found.items() if name}
    return {"all": ""} | named


def _settlement(limits: list[_Limit], generation: Generation, before: int) -> dict[str, int]:
    """Return what each counter is still to be charged, which is negative where less was spent than reserved."""
    costs = generation.costs[before:]
    known_usd = sum((cost.amount_usd for cost in costs if cost.amount_usd is not None), Decimal(0))
    spent = {
        "usd": _count("usd", known_usd),
        "tokens": sum(cost.usage.input_tokens + cost.usage.output_tokens for cost in costs),
    }
    is_unpriced = any(cost.amount_usd is None for cost in costs)
    amounts = {}
    for limit in limits:
        charged = spent[limit.unit]
        if limit.unit == "usd" and is_unpriced:
            charged = max(charged, limit.reserved)
        amounts[limit.key] = charged - limit.reserved
    return amounts


def _count(unit: str, amount: Decimal | int) -> int:
    """Return whole tokens, or millionths of a dollar, rounded up."""
    return int((Decimal(amount) * _MICRO).to_integral_value(ROUND_CEILING)) if unit == "usd" else int(amount)


def _shown(limit: _Limit, count: int) -> str:
    return f"{Decimal(count) / _MICRO:.2f}" if limit.unit == "usd" else str(count)
