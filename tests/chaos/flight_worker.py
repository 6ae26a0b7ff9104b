"""One of several workers that are asked for the same generation: says when it runs one, and who answered.

    python -m tests.chaos.flight_worker CACHE_URL FOLDER LEASE_S

Each line of standard input is a JSON object: how many callers, which tokens, how long the pipeline takes, and how it
ends. Every execution is a line of `FOLDER/executions`.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from forge_otel import Forge, GenerationRequest, GenerationResult, Settings, agent, record_usage
from forge_otel.errors import ServiceUnavailable
from forge_otel.resilience.attempt_timeout import TimeoutOptions
from forge_otel.resilience.deadline import DeadlineOptions
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import RetryOptions

# As shipped, a worker that Redis does not answer within 50 ms goes by itself; four workers that share two processors
# with their Redis and the test are slower than that now and then, and this is about what they do together.
PATIENT = Policies(
    deadline=DeadlineOptions(total_s=5.0),
    retry=RetryOptions(attempts=1),
    timeout=TimeoutOptions(attempt_s=5.0),
)


def say(**facts: Any) -> None:
    """Tell the test, as one line."""
    print(json.dumps({"pid": os.getpid(), "at": time.time(), **facts}), flush=True)


async def ask(forge: Forge, folder: Path, order: dict[str, Any]) -> None:
    """Ask so many times at once, and say who answered what, for how much."""
    request = GenerationRequest(component_type="button", figma_key="f", tokens={"n": order.get("n", 0)})

    @agent("writer")
    async def write() -> str:
        record_usage(1000, 500, model="gpt-4o", cost_usd=Decimal(order.get("cost_usd", "0.42")))
        await asyncio.sleep(order["run_s"])
        return f"made by {os.getpid()}"

    @forge.generation(name="generate")
    async def generate(request: GenerationRequest) -> GenerationResult:
        with (folder / "executions").open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        say(event="runs")
        code = await write()
        if "error" in order:
            raise (ServiceUnavailable if order["error"] == "forge" else ValueError)("as ordered")
        return GenerationResult(code=code)

    async def one() -> tuple[str, str, str, str]:
        try:
            result = await generate(request)
        except Exception as exc:
            return type(exc).__name__, "", "0", "0"
        return result.source, result.code, str(result.cost_usd), str(result.saved_usd)

    started_s = time.monotonic()
    ends = await asyncio.gather(*(one() for _ in range(order.get("callers", 1))))
    say(
        event="answered",
        took_s=time.monotonic() - started_s,
        sources=Counter(end[0] for end in ends),
        codes=sorted({end[1] for end in ends}),
        money=sorted({end[2:] for end in ends}),
    )


async def follow(forge: Forge, order: dict[str, Any]) -> None:
    """Say each event of a generation that may run anywhere."""
    request = GenerationRequest(component_type="button", figma_key="f", tokens={"n": order.get("n", 0)})
    told = [progress async for progress in forge.follow(request, after=order.get("after", ""))]
    say(event="followed", kinds=[one.kind for one in told], ids=[one.id for one in told])


async def main(cache_url: str, folder: Path, lease_s: float) -> None:
    """Do what standard input says, line by line, each in a task of its own."""
    settings = Settings(
        cache_url=cache_url,
        archive_url=None,
        database_url=None,
        trace_spool_dir=None,
        outbox_dir=str(folder / "outbox" / str(os.getpid())) if cache_url != "memory://" else str(folder / "outbox"),
        single_flight_lease_s=lease_s,
    )
    async with Forge(settings, policies=dict.fromkeys(("redis", "redis:flights", "flights"), PATIENT)) as forge:
        say(event="open")
        running = set()
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            step = follow(forge, order) if order.get("follow") else ask(forge, folder, order)
            running.add(asyncio.create_task(step))
        await asyncio.gather(*running)
        page, _ = await forge.telemetry.prometheus.render("", "")
        say(event="closed", metrics=[line for line in page.decode().splitlines() if line.startswith("forge_flight")])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
