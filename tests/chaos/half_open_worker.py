"""One of several workers with a half-open breaker: opens it, waits for the signal, and makes 500 calls at once."""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import replace

from forge_otel.resilience.guard import Guard
from forge_otel.resilience.policies import defaults_for
from forge_otel.resilience.retry import RetryOptions

CALLS = 500
OPEN_S = 1.0


async def request(port: int, worker: str) -> str:
    """Send the name of the worker and return the response; a closed connection is an error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{worker}\n".encode())
        return (await reader.readuntil(b"\n")).decode().strip()
    finally:
        writer.close()


async def outcome(guard: Guard, port: int, worker: str) -> str:
    """Return the response, or the type of the error."""
    try:
        return await guard.call(request, port, worker)
    except Exception as exc:
        return type(exc).__name__


async def main(port: int, worker: str) -> None:
    """Print one line for each step."""
    policies = defaults_for("openai")
    breaker = replace(policies.breaker, open_s=OPEN_S)
    guard = Guard("openai", replace(policies, breaker=breaker, retry=RetryOptions(attempts=1)))
    while guard.admission.state().state == "closed":
        await outcome(guard, port, worker)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    while guard.admission.state().rejects_for_s:
        await asyncio.sleep(0.01)
    ends = await asyncio.gather(*(outcome(guard, port, worker) for _ in range(CALLS)))
    print(json.dumps(Counter(ends)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
