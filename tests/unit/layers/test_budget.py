"""Budgets admit, refuse and charge generations, also during faults."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from forge_otel import Forge, GenerationRequest, GenerationResult, Settings
from forge_otel.context import current_generation
from forge_otel.errors import BudgetExceeded, ConfigurationError
from forge_otel.pricing import ModelPrice
from forge_otel.types import Cost

QUIET: dict[str, Any] = {"archive_url": None, "database_url": None, "outbox_dir": None, "budget_reserve_tokens": 1}


def _settings(**changes: Any) -> Settings:
    prices = {"m": ModelPrice(input_usd=Decimal(1), output_usd=Decimal(1))}
    return Settings(**QUIET | {"prices": prices, "budget_reserve_usd": Decimal("0.10")} | changes)


class Asker:
    """Runs generations of a known cost on a forge."""

    def __init__(self, forge: Forge) -> None:
        self.ran = 0
        self.go = asyncio.Event()
        self.go.set()

        @forge.generation(name="p")
        async def generate(_request: GenerationRequest, usd: str | None, fails: bool = False) -> GenerationResult:
            self.ran += 1
            await self.go.wait()
            if usd is not None:
                forge.record_usage(int(Decimal(usd) * 1_000_000), 0, model="m")
            if fails:
                raise RuntimeError("it broke")
            return GenerationResult(code="x")

        self._generate = generate

    async def __call__(self, number: int, usd: str | None = "0.10", *, fails: bool = False, **who: Any) -> str:
        request = GenerationRequest(component_type="button", figma_key=f"k{number}", **who)
        return (await self._generate(request, usd, fails)).source


async def test_above_the_limit_only_hits_are_answered() -> None:
    """The error is a 429 with the time until midnight UTC; a hit costs nothing."""
    async with Forge(_settings(budget_usd=Decimal("0.30"))) as forge:
        ask = Asker(forge)
        assert [await ask(number) for number in range(3)] == ["L4"] * 3
        with pytest.raises(BudgetExceeded, match="used up; it resets at 00:00 UTC") as refused:
            await ask(3)
        assert await ask(0) == "L1"
        assert (await forge.budget.usage())["usd"] == {"used": "0.30", "limit": "0.30"}
    assert (refused.value.status, refused.value.scope) == (429, "all")
    assert 0 < (refused.value.retry_after_s or 0) <= 86_400


@pytest.mark.parametrize("scope", ["tenant", "user", "session"])
async def test_every_owner_has_its_own_limit(scope: str) -> None:
    """Spending of one does not count against another."""
    field = {"tenant": "tenant", "user": "user_id", "session": "session_id"}[scope]
    async with Forge(_settings(**{f"budget_usd_{scope}": Decimal("0.10")})) as forge:
        ask = Asker(forge)
        await ask(0, **{field: "ada"})
        with pytest.raises(BudgetExceeded, match=f"of this {scope}"):
            await ask(1, **{field: "ada"})
        assert await ask(2, **{field: "grace"}) == "L4"
        assert await ask(3) == "L4"


async def test_tokens_have_limits_too() -> None:
    """The message names the unit."""
    async with Forge(_settings(budget_tokens=1000)) as forge:
        ask = Asker(forge)
        await ask(0, "0.001")
        with pytest.raises(BudgetExceeded, match="1000 tokens"):
            await ask(1)


async def test_a_call_of_unknown_usage_is_charged_the_reserve() -> None:
    """In both units: nothing says that it was free."""
    limits = {"budget_usd": Decimal(1), "budget_tokens": 1000, "budget_reserve_tokens": 300}
    async with Forge(_settings(**limits)) as forge:

        @forge.generation(name="p")
        async def generate(_request: GenerationRequest) -> GenerationResult:
            running = current_generation.get()
            assert running is not None
            running.record_cost(Cost(api="openai", model="gpt-4o"))
            return GenerationResult(code="x")

        await generate(GenerationRequest(component_type="button", figma_key="k"))
        await forge.budget.flush()
        usage = await forge.budget.usage()
    assert (usage["usd"]["used"], usage["tokens"]["used"]) == ("0.10", "300")


async def test_concurrent_callers_do_not_overspend() -> None:
    """Of fifty generations ten run, because each reserves its cost first."""
    async with Forge(_settings(budget_usd=Decimal("1.00"))) as forge:
        ask = Asker(forge)
        ask.go.clear()
        asked = [asyncio.create_task(ask(number)) for number in range(50)]
        async with asyncio.timeout(10):
            while sum(task.done() for task in asked) < 40:
                await asyncio.sleep(0.005)
        ask.go.set()
        ended = await asyncio.gather(*asked, return_exceptions=True)
        await forge.budget.flush()
        assert (await forge.budget.usage())["usd"]["used"] == "1.00"
    assert (ended.count("L4"), ask.ran) == (10, 10)


async def test_workers_share_a_budget(fresh_redis: str) -> None:
    """Two forges over one Redis."""
    settings = _settings(cache_url=fresh_redis, budget_usd=Decimal("0.20"))
    async with Forge(settings) as one, Forge(settings) as two:
        first, second = Asker(one), Asker(two)
        await first(0)
        await second(1)
        await one.budget.flush()
        for ask, number in ((first, 2), (second, 3)):
            with pytest.raises(BudgetExceeded):
                await ask(number)


@pytest.mark.parametrize(
    ("usd", "fails", "used"), [("0.05", False, "0.05"), ("0.05", True, "0.05"), ("0", True, "0.00")]
)
async def test_the_actual_cost_is_charged_on_success_and_failure(usd: str | None, fails: bool, used: str) -> None:
    """The rest of the reservation is returned."""
    async with Forge(_settings(budget_usd=Decimal(1))) as forge:
        await asyncio.gather(Asker(forge)(0, usd, fails=fails), return_exceptions=True)
        await forge.budget.flush()
        assert (await forge.budget.usage())["usd"]["used"] == used


async def test_a_cancelled_caller_leaves_no_reservation() -> None:
    """After the run ends only its cost is charged."""
    async with Forge(_settings(budget_usd=Decimal(1))) as forge:
        ask = Asker(forge)
        ask.go.clear()
        asked = asyncio.create_task(ask(0, None))
        while not ask.ran:
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        ask.go.set()
        async with asyncio.timeout(10):
            while (await forge.budget.usage())["usd"]["used"] != "0.00":
                await asyncio.sleep(0.005)


async def test_warn_mode_admits_and_counts() -> None:
    """Nothing is refused."""
    async with Forge(_settings(budget_usd=Decimal("0.10"), budget_mode="warn")) as forge:
        ask = Asker(forge)
        assert [await ask(number) for number in range(3)] == ["L4"] * 3
        await forge.budget.flush()
        assert (await forge.budget.usage())["usd"]["used"] == "0.30"


async def test_without_the_store_a_worker_counts_on_its_own(redis_server: Any) -> None:
    """It continues from its own spending, and the limit holds."""
    async with Forge(_settings(cache_url=redis_server.url, budget_usd=Decimal("0.20"))) as forge:
        ask = Asker(forge)
        await ask(0)
        await forge.budget.flush()
        await asyncio.to_thread(redis_server.kill)
        await ask(1)
        with pytest.raises(BudgetExceeded):
            await ask(2)


def test_a_limit_below_one_reservation_is_rejected_at_start() -> None:
    """No generation would fit under it."""
    with pytest.raises(ConfigurationError, match="every generation would be refused"):
        _settings(budget_usd=Decimal("0.01"))
