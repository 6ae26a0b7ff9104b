"""Another client of the same Redis in a process of its own: executes JSON commands from standard input."""

import asyncio
import json
import sys
from typing import Any

from forge_otel.stores.redis.store import open_url


async def main(url: str) -> None:
    """Execute one command per line until standard input ends, and confirm each with `done`."""
    async with open_url(url, max_bytes=0) as store:
        for line in iter(sys.stdin.readline, ""):
            await act(store, *json.loads(line))
            print("done", flush=True)


async def act(store: Any, command: str, key: str = "", value: str = "", ttl_s: float | None = None) -> None:
    """Execute one command."""
    match command:
        case "set":
            await store.set(key, value.encode(), ttl_s=ttl_s)
        case "delete":
            await store.delete([key])
        case "flush":
            await store._client.flushall()
        case "kill":
            await store._client.client_kill_filter(_type="normal", skipme=True)
        case _:
            raise ValueError(command)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
