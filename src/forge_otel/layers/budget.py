"""Daily spending limits in USD and tokens: for all callers, per tenant, per user and per session.

A generation reserves its expected cost before it runs and is charged its actual cost when it ends, however it ends.
Concurrent callers in all workers that share a store therefore exceed a limit by at most the amount by which running
generations exceed their reservations. Near a limit a caller may be refused because of a reservation that is returned a
moment later.

Cache hits cost nothing and never reach this layer. A call with an unknown price is charged its reservation. A killed
process leaves its reservations charged until the day ends. While the store is unavailable each worker counts on its own
and may spend each limit once more; the record then says `budget:local`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final, Literal, Self

from opentelemetry import trace

from forge_otel._internal.tasks import TaskSet
from forge_otel.context import Generation, current_generation, identity
from forge_otel.errors import BudgetExceeded
from forge_otel.keys import digest
from forge_otel.names import Attr, Metric
from forge_otel.resilience.time_budget import start_detached
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, CallNext, Reply, Usage
from forge_otel.types.capabilities import SupportsIncrement

__all__ = ["BudgetLayer", "BudgetOptions", "LocalCounters"]

_DAY_S: Final = 86_400
# Two days, because the clocks of workers may differ around midnight.
_COUNTER_TTL_S: Final = 2.0 * _DAY_S
_MICRO: Final = 1_000_000
LOCAL: Final = "budget:local"


class LocalCounters:
    """Counters of this process; those of earlier days are dropped."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._day = ""

    async def increment(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters and return their new values, in the order of `amounts`."""
        del ttl_s
        for key, amount in amounts.items():
            day = key.split(":")[2]
            # A charge that arrives after midnight still counts for its own day.
            if day > self._day:
                self._day, self._counts = day, {}
            self._counts[key] = self._counts.get(key, 0) + amount
        return [self._counts.get(key, 0) for key in amounts]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOptions:
    """Limits for one UTC day.

    Args:
        usd, tokens: limit by scope (`all`, `tenant`, `user`, `session`); None is unlimited.
        mode: `refuse` answers 429 above a limit, `warn` only reports it.
        reserve_usd, reserve_tokens: expected maximum of one generation.
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
    """Refuses or reports generations above a daily limit.

    Args:
        options: the limits.
        store: counters shared by all workers; None counts in this process only.
        instruments: receive the decisions.
        guard: `await guard(function, *args)` calls the store within its deadline and breaker.
        clock_s: wall clock in seconds since 1970, because a day is a calendar day.
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
        self._local = LocalCounters()
        self._charges: TaskSet[None] = TaskSet()

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Reserve, run the inner layers, and charge the actual cost.

        Raises:
            BudgetExceeded: a limit is reached.
        """
        limits = self._limits(call)
        generation = current_generation.get()
        if not limits or generation is None:
            return await call_next(call)
        exceeded = await self._reserve(limits)
        self._report(exceeded)
        if exceeded is not None and self._options.mode == "refuse":
            await self._charge({limit.key: -limit.reserved for limit in limits})
            raise self._refusal(exceeded)
        costs_before = len(generation.costs)
        try:
            return await call_next(call)
        finally:
            # In a task of its own, because a cancelled caller's spending must be charged too.
            self._charges.hold(start_detached(self._charge(_settlement(limits, generation, costs_before))))

    async def flush(self) -> None:
        """Wait until all pending charges are recorded."""
        while self._charges:
            await asyncio.wait(self._charges)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.flush()

    async def usage(self) -> Mapping[str, Any]:
        """Return today's use of the limits for all callers, including reservations, JSON-ready."""
        limits = [limit for limit in self._limits(None) if limit.scope == "all"]
        counts = await self._add({limit.key: 0 for limit in limits}) if limits else []
        report = dict.fromkeys(("usd", "tokens"), None) | {
            limit.unit: {"used": _format(limit, count), "limit": _format(limit, limit.most)}
            for limit, count in zip(limits, counts, strict=True)
        }
        return report | {"mode": self._options.mode, "resets_in_s": self._resets_in_s()}

    def _limits(self, call: Call | None) -> list[_Limit]:
        day = datetime.fromtimestamp(self._clock_s(), UTC).strftime("%Y%m%d")
        return [
            # Hashed, because owners are names that callers send.
            _Limit(scope, unit, f"forge:budget:{day}:{digest([scope, owner, unit])}", most, reserved)
            for scope, owner in _owners(call).items()
            for unit, most, reserved in (
                ("usd", self._options.usd.get(scope), self._options.reserve_usd),
                ("tokens", self._options.tokens.get(scope), self._options.reserve_tokens),
            )
            if most is not None
            for most, reserved in [(_count(unit, most), _count(unit, reserved))]
        ]

    async def _reserve(self, limits: list[_Limit]) -> _Limit | None:
        """Reserve one generation; return the first limit that this exceeds."""
        counts = await self._add({limit.key: limit.reserved for limit in limits})
        exceeded = (limit for limit, count in zip(limits, counts, strict=True) if count > limit.most)
        return next(exceeded, None)

    async def _charge(self, amounts: Mapping[str, int]) -> None:
        await self._add(amounts)

    async def _add(self, amounts: Mapping[str, int]) -> list[int]:
        # Counted here too, so that a worker that loses the store continues from its own spending.
        local = await self._local.increment(amounts, ttl_s=_COUNTER_TTL_S)
        if self._store is None:
            return local
        try:
            counts: list[int] = await self._guard(self._store.increment, amounts, ttl_s=_COUNTER_TTL_S)
        except Exception:
            generation = current_generation.get()
            if generation is not None:
                generation.record_degraded(LOCAL)
            return local
        return counts

    def _report(self, exceeded: _Limit | None) -> None:
        outcome = "admitted" if exceeded is None else "refused" if self._options.mode == "refuse" else "warned"
        scope = "none" if exceeded is None else exceeded.scope
        self._instruments.add(Metric.BUDGET_DECISIONS, 1, {Attr.BUDGET_SCOPE: scope, Attr.OUTCOME: outcome})
        if exceeded is not None:
            trace.get_current_span().set_attribute(Attr.BUDGET_SCOPE, scope)

    def _refusal(self, limit: _Limit) -> BudgetExceeded:
        owner = "all callers" if limit.scope == "all" else f"this {limit.scope}"
        most = f"{_format(limit, limit.most)} {'USD' if limit.unit == 'usd' else 'tokens'}"
        return BudgetExceeded(
            f"the daily budget of {owner} ({most}) is used up; it resets at 00:00 UTC",
            scope=limit.scope,
            retry_after_s=self._resets_in_s(),
        )

    def _resets_in_s(self) -> float:
        return _DAY_S - self._clock_s() % _DAY_S


def _owners(call: Call | None) -> dict[str, str]:
    """Return the name of the budget's owner by scope."""
    if call is None:
        return {"all": ""}
    current, request = identity.get(), call.request
    found = {
        "tenant": request.tenant or current.tenant,
        "user": request.user_id or current.user_id,
        "session": request.session_id or current.session_id,
    }
    # Two tenants may each have a user of the same name.
    tenant = found["tenant"] or ""
    named = {scope: f"{tenant}\0{name}" for scope, name in found.items() if name}
    return {"all": ""} | named


def _settlement(limits: list[_Limit], generation: Generation, costs_before: int) -> dict[str, int]:
    """Return the difference between the actual cost and the reservation, by counter."""
    costs = generation.costs[costs_before:]
    known_usd = sum((cost.amount_usd for cost in costs if cost.amount_usd is not None), Decimal(0))
    spent = {
        "usd": _count("usd", known_usd),
        "tokens": sum(cost.usage.input_tokens + cost.usage.output_tokens for cost in costs),
    }
    unpriced = [cost for cost in costs if cost.amount_usd is None]
    is_unknown = {"usd": bool(unpriced), "tokens": any(cost.usage == Usage() for cost in unpriced)}
    amounts = {}
    for limit in limits:
        charged = spent[limit.unit]
        # A call with an unknown price or usage must not be cheaper than its reservation.
        if is_unknown[limit.unit]:
            charged = max(charged, limit.reserved)
        amounts[limit.key] = charged - limit.reserved
    return amounts


def _count(unit: str, amount: Decimal | int) -> int:
    """Return whole tokens, or micro-dollars rounded up."""
    return int((Decimal(amount) * _MICRO).to_integral_value(ROUND_CEILING)) if unit == "usd" else int(amount)


def _format(limit: _Limit, count: int) -> str:
    return f"{Decimal(count) / _MICRO:.2f}" if limit.unit == "usd" else str(count)
