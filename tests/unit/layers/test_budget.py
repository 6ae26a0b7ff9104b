"""The budget: who is let through, what is charged, and what is left when things go wrong."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from forge_otel import Forge, GenerationRequest, GenerationResult, Settings
from forge_otel.errors import BudgetExceeded, ConfigurationError
from forge_otel.pricing import ModelPrice

QUIET: dict[str, Any] = {"archive_url": None, "database_url": None, "outbox_dir": None, "budget_reserve_tokens": 1}


def _settings(**changes: Any) -> Settings:
    prices = {"m": ModelPrice(input_usd=Decimal(1), output_usd=Decimal(1))}
    return Settings(**QUIET | {"prices": prices, "budget_reserve_usd": Decimal("0.10")} | changes)


class Asker:
    """Asks a forge for generations of a known cost."""

    def __init__(self, forge: Forge) -> None:
        self.ran = 0
        self.gate = asyncio.Event()
        self.gate.set()

        @forge.generation(name="p")
        async def generate(_request: GenerationRequest, usd: str | None, fails: bool = False) -> GenerationResult:
            self.ran += 1
            await self.gate.wait()
            if usd is not None:
                forge.record_usage(int(Decimal(usd) * 1_000_000), 0, model="m")
            if fails:
                raise RuntimeError("it broke")
            return GenerationResult(code="x")

        self._generate = generate

    async def __call__(self, number: int, usd: str | None = "0.10", *, fails: bool = False, **who: Any) -> str:
        request = GenerationRequest(component_type="button", figma_key=f"k{number}", **who)
        return (await self._generate(request, usd, fails)).source


async def test_beyond_the_limit_new_things_are_refused_and_known_ones_answered() -> None:
    """429 with the time until midnight; a hit costs nothing and passes."""
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
async def test_each_has_a_limit_of_its_own(scope: str) -> None:
    """What one has used is not held against another."""
    field = {"tenant": "tenant", "user": "user_id", "session": "session_id"}[scope]
    async with Forge(_settings(**{f"budget_usd_{scope}": Decimal("0.10")})) as forge:
        ask = Asker(forge)
        await ask(0, **{field: "ada"})
        with pytest.raises(BudgetExceeded, match=f"of this {scope}"):
            await ask(1, **{field: "ada"})
        assert await ask(2, **{field: "grace"}) == "L4"
        assert await ask(3) == "L4"


async def test_tokens_have_limits_too() -> None:
    """In tokens, as the sentence says."""
    async with Forge(_settings(budget_tokens=1000)) as forge:
        ask = Asker(forge)
        await ask(0, "0.001")
        with pytest.raises(BudgetExceeded, match="1000 tokens"):
            await ask(1)


async def test_callers_at_the_same_moment_do_not_overspend() -> None:
    """Each reserves before it runs: of fifty, as many run as the limit has room for."""
    async with Forge(_settings(budget_usd=Decimal("1.00"))) as forge:
        ask = Asker(forge)
        ask.gate.clear()
        asked = [asyncio.create_task(ask(number)) for number in range(50)]
        async with asyncio.timeout(10):
            while sum(task.done() for task in asked) < 40:
                await asyncio.sleep(0.005)
        ask.gate.set()
        ended = await asyncio.gather(*asked, return_exceptions=True)
        await forge.budget.flush()
        assert (await forge.budget.usage())["usd"]["used"] == "1.00"
    assert (ended.count("L4"), ask.ran) == (10, 10)


async def test_workers_share_what_is_left(fresh_redis: str) -> None:
    """Two forges over one Redis have one budget."""
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
async def test_what_was_spent_is_charged_however_it_ended(usd: str | None, fails: bool, used: str) -> None:
    """The reservation is given back, the cost stays."""
    async with Forge(_settings(budget_usd=Decimal(1))) as forge:
        await asyncio.gather(Asker(forge)(0, usd, fails=fails), return_exceptions=True)
        await forge.budget.flush()
        assert (await forge.budget.usage())["usd"]["used"] == used


async def test_a_cancelled_caller_leaves_no_reservation() -> None:
    """Its generation may go on without it; once that has ended, what it cost is charged and no more."""
    async with Forge(_settings(budget_usd=Decimal(1))) as forge:
        ask = Asker(forge)
        ask.gate.clear()
        asked = asyncio.create_task(ask(0, None))
        while not ask.ran:
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        ask.gate.set()
        async with asyncio.timeout(10):
            while (await forge.budget.usage())["usd"]["used"] != "0.00":
                await asyncio.sleep(0.005)


async def test_a_warning_lets_pass() -> None:
    """And still counts."""
    async with Forge(_settings(budget_usd=Decimal("0.10"), budget_mode="warn")) as forge:
        ask = Asker(forge)
        assert [await ask(number) for number in range(3)] == ["L4"] * 3
        await forge.budget.flush()
        assert (await forge.budget.usage())["usd"]["used"] == "0.30"


async def test_without_the_store_a_worker_counts_by_itself(redis_server: Any) -> None:
    """It goes on from what it has spent itself, and the limit holds."""
    async with Forge(_settings(cache_url=redis_server.url, budget_usd=Decimal("0.20"))) as forge:
        ask = Asker(forge)
        await ask(0)
        await forge.budget.flush()
        await asyncio.to_thread(redis_server.kill)
        await ask(1)
        with pytest.raises(BudgetExceeded):
            await ask(2)


def test_a_limit_below_one_generation_is_refused_at_start() -> None:
    """Nothing could be generated under it."""
    with pytest.raises(ConfigurationError, match="nothing could be generated"):
        _settings(budget_usd=Decimal("0.01"))
