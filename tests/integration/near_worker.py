"""Another process on the same Redis: does what it is told on standard input, a JSON list a line, and says so."""

import asyncio
import json
import sys
from typing import Any

from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.stores.redis.store import open_url
from forge_otel.telemetry.metrics.instruments import Instruments


async def main(url: str) -> None:
    """Work until standard input ends."""
    async with open_url(url, max_bytes=0) as store:
        exact = ExactCacheLayer(store, ExactCacheOptions(secret=b"secret"), instruments=Instruments())
        for line in iter(sys.stdin.readline, ""):
            what, *words = json.loads(line)
            await act(store, exact, what, *words)
            print("done", flush=True)


async def act(
    store: Any, exact: ExactCacheLayer, what: str, key: str = "", value: str = "", ttl_s: float | None = None
) -> None:
    """Do one thing."""
    match what:
        case "set":
            await store.set(key, value.encode(), ttl_s=ttl_s)
        case "delete":
            await store.delete([key])
        case "invalidate":
            await exact.invalidate(key)
        case "purge":
            await exact.purger.purge("key", key, who="another process")
        case "flush":
            await store._client.flushall()
        case "kill":
            await store._client.client_kill_filter(_type="normal", skipme=True)
        case _:
            raise ValueError(what)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
