"""Breakers of several workers that are half-open at the same time."""

import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Self

import pytest
from tests.chaos.half_open_worker import CALLS
from tests.chaos.site import ROOT

WORKERS = 4
# Long enough for any further call that might be admitted beside a probe.
HOLD_S = 0.3
LIMIT_S = 60.0


class Service:
    """Closes every connection until it is healthy; then responds after a delay and counts concurrent requests."""

    def __init__(self) -> None:
        self.is_healthy = False
        self.requests: Counter[str] = Counter()
        self.inside: Counter[str] = Counter()
        self.most_inside: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker = (await reader.readline()).decode().strip()
        if self.is_healthy:
            self.requests[worker] += 1
            self.inside[worker] += 1
            self.most_inside[worker] = max(self.most_inside[worker], self.inside[worker])
            await asyncio.sleep(HOLD_S)
            self.inside[worker] -= 1
            writer.write(b"answer\n")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def start_worker(stack: AsyncExitStack, port: int, number: int) -> asyncio.subprocess.Process:
    """Start a process with its own breaker."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.half_open_worker", str(port), f"worker-{number}"),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def end() -> None:
        if worker.returncode is None:
            worker.kill()
        await worker.communicate()

    stack.push_async_callback(end)
    return worker


async def next_line(worker: asyncio.subprocess.Process) -> str:
    """Return the next line of a worker."""
    assert worker.stdout is not None
    return (await worker.stdout.readline()).decode().strip()


@pytest.mark.slow
async def test_each_worker_sends_one_probe() -> None:
    """4 x 500 calls at half-open: one probe of each worker is in flight, all other calls are rejected at once."""
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
        service = await stack.enter_async_context(Service())
        workers = [await start_worker(stack, service.port, number) for number in range(WORKERS)]
        assert [await next_line(worker) for worker in workers] == ["open"] * WORKERS
        service.is_healthy = True
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
        ends = [json.loads(await next_line(worker)) for worker in workers]
    assert ends == [{"answer": 1, "CircuitOpen": CALLS - 1}] * WORKERS
    assert service.requests == service.most_inside == {f"worker-{number}": 1 for number in range(WORKERS)}
