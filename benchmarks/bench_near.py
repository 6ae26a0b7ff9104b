"""What a near hit costs, against the same hit from a real Redis.

    .venv/bin/python benchmarks/bench_near.py [--json] [--url redis://127.0.0.1:6379/0]

Two questions in one run: the *look-up* (all keys of an answer: from the near cache, or by one MGET of redis-py), which
has a bound, and the whole *L1 hit* (the layer with its metrics and the guard around Redis; compared with the epochs of
its tags), most of which is what any hit does. Without ``--url`` a server is started for the run.
"""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bench_l1 import SIZES, from_command_line, in_turn, never
from forge_otel.keys import generation_key
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.resilience.guard import Guards
from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.store import open_url
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply

BOUND = 0.05


class Noting(NearStore):
    """Says which keys were fetched."""

    fetched: Sequence[str] = ()

    async def fetch(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Fetch and note."""
        self.fetched = keys
        return await super().fetch(keys)


async def answer(call: Call) -> Reply:
    """What is stored; as long as the request says."""
    size_bytes = call.request.requirements["size"]
    code = ("export const Button = () => <button className='x'>" * (size_bytes // 50 + 1))[:size_bytes]
    return Reply(result=GenerationResult(code=code), cost_usd=Decimal("0.42"), origin_id="g")


async def ask(_call: Call) -> Reply:
    """What L1 does not answer."""
    raise SystemExit("L1 did not answer")


async def measure(url: str, size_bytes: int, *, rounds: int, count: int) -> dict[str, float]:
    """Medians of all rounds, taken in turn."""
    requirements = {"size": size_bytes}
    request = GenerationRequest(component_type="button", figma_key="f", requirements=requirements, tenant="t")
    key = generation_key(request, pipeline="p", version="1")
    call = Call(request=request, pipeline="p", key=key, component_id="c", run=never)
    instruments = Instruments(MeterProvider([InMemoryMetricReader()]).get_meter("bench"))
    options = ExactCacheOptions(secret=b"secret", pipeline_version="1")
    code = (await answer(call)).result.code
    plain: Any = open_url(url, max_bytes=0)
    behind: Any = open_url(url, max_bytes=0)
    async with Noting(behind, max_bytes=2**26) as near, plain:
        by_redis = ExactCacheLayer(plain, options, instruments=instruments, guard=Guards().get("redis").call)
        by_near = ExactCacheLayer(near, options, instruments=instruments, guard=Guards().get("redis").call)
        await by_near(call, answer)
        await near.synchronize()
        await by_near(call, ask)
        keys, near.fetched = list(near.fetched), ()

        async def near_look_up() -> Any:
            return near.peek(keys)

        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "near look-up": near_look_up,
            "Redis look-up": lambda: plain.get(keys),
            "near L1 hit": lambda: by_near(call, ask),
            "Redis L1 hit": lambda: by_redis(call, ask),
        }
        hits = [await works[f"{where} L1 hit"]() for where in ("near", "Redis")]
        if [hit.result.code for hit in hits] != [code, code]:
            raise SystemExit("an answer is not what was stored")
        found = await in_turn(works, rounds=rounds, count=count)
        if near.fetched or near.peek(keys) is None:
            raise SystemExit("a near hit asked Redis")
    return found


async def run(url: str, *, rounds: int, count: int) -> dict[str, Any]:
    """All sizes."""
    us = {name: await measure(url, size, rounds=rounds, count=count) for name, size in SIZES.items()}
    ratio = {
        kind: {name: round(taken[f"near {kind}"] / taken[f"Redis {kind}"], 4) for name, taken in us.items()}
        for kind in ("look-up", "L1 hit")
    }
    holds = {name: value <= BOUND for name, value in ratio["look-up"].items()}
    return {"us": us, "ratio": ratio, "holds": holds}


if __name__ == "__main__":
    from_command_line(__doc__, run)
