"""Worker of the single-flight tests: generates or follows on request, and prints what happened as JSON lines.

    python -m tests.chaos.single_flight_worker CACHE_URL FOLDER LEASE_S

Each line of standard input is a JSON object with the number of callers, the tokens, and duration and end of the
pipeline. Every execution appends a line to `FOLDER/executions`.
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

# With the default policies a worker runs on its own if Redis takes more than 50 ms; four workers that share two
# processors with Redis and the test sometimes take longer, and these tests are about coordination.
LENIENT = Policies(
    deadline=DeadlineOptions(total_s=5.0),
    retry=RetryOptions(attempts=1),
    timeout=TimeoutOptions(attempt_s=5.0),
)


def say(**facts: Any) -> None:
    """Print one line for the test."""
    print(json.dumps({"pid": os.getpid(), "at": time.time(), **facts}), flush=True)


async def ask(forge: Forge, folder: Path, order: dict[str, Any]) -> None:
    """Run the requested number of concurrent calls, and print sources, answers and costs."""
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
    """Follow a generation that may run in any worker, and print its events."""
    request = GenerationRequest(component_type="button", figma_key="f", tokens={"n": order.get("n", 0)})
    events = [progress async for progress in forge.follow(request, after=order.get("after", ""))]
    say(event="followed", kinds=[one.kind for one in events], ids=[one.id for one in events])


async def main(cache_url: str, folder: Path, lease_s: float) -> None:
    """Execute each line of standard input in a task of its own."""
    settings = Settings(
        cache_url=cache_url,
        archive_url=None,
        database_url=None,
        trace_spool_dir=None,
        outbox_dir=str(folder / "outbox" / str(os.getpid())) if cache_url != "memory://" else str(folder / "outbox"),
        single_flight_lease_s=lease_s,
    )
    async with Forge(settings, policies=dict.fromkeys(("redis", "redis:flights", "flights"), LENIENT)) as forge:
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
