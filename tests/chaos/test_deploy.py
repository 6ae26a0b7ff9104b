"""A deploy: two uvicorn workers are terminated under load, and no answered generation is lost."""

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

import httpx
import pytest
from tests.chaos.service import GRACE_S, Plan
from tests.chaos.site import BODY, LOOPBACK, ROOT, StandIns, answered, free_ports, until
from tests.servers import RedisServer

from forge_otel import Forge, Settings
from forge_otel.testing.fault_matrix.load import Load

pytestmark = pytest.mark.faults

WORKERS = 2
START_S = 60.0
EXIT_S = 5.0
MIN_ANSWERED = 60
DRAIN_S = 20.0


class Callers:
    """Sends requests and counts responses: `begun` with their headers received, `whole` with their body."""

    def __init__(self, base_url: str) -> None:
        self.begun = 0
        self.whole = 0
        self.answered: list[str] = []
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=base_url, timeout=30, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def is_served(self) -> bool:
        """Return whether the service responds."""
        with suppress(httpx.HTTPError):
            return (await self._client.get("/livez")).status_code == 200
        return False

    async def request_known(self, number: int) -> httpx.Response:
        """Request one of six components."""
        return await self._request(f"known {number % 6}")

    async def request_new(self, number: int) -> httpx.Response:
        """Request a new component."""
        return await self._request(f"new {number}")

    async def _request(self, note: str) -> httpx.Response:
        body = BODY | {"requirements": {"note": note}}
        async with self._client.stream("POST", "/generate", json=body) as response:
            self.begun += 1
            await response.aread()
            self.whole += 1
        if response.status_code == 200:
            self.answered.append(answered(response).generation_id)
        return response


@asynccontextmanager
async def two_workers(plan: Plan) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the service under uvicorn's supervisor."""
    command = [sys.executable, "-m", "uvicorn", "tests.chaos.deployed:app", "--workers", str(WORKERS)]
    options = ["--port", str(plan.port), "--log-level", "warning", "--timeout-graceful-shutdown", str(GRACE_S)]
    environ = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
        "CHAOS_PLAN": json.dumps(asdict(plan)),
    }
    with Path(plan.folder, "service.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, *options, env=os.environ | environ, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def workers_of(pid: int) -> set[int]:
    """Return the running worker processes of a supervisor."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()}


async def drain(folder: Path) -> None:
    """Open a forge on the files of the workers until every record is delivered."""
    settings = Settings(
        archive_url=f"file://{folder}/artifacts",
        database_url=f"sqlite+aiosqlite:///{folder}/db/forge.db",
        outbox_dir=f"{folder}/outbox",
    )
    async with Forge(settings) as forge:
        assert await forge.outbox.drain(timeout_s=DRAIN_S)


def stored(folder: Path) -> list[str]:
    """Return the ids of the successful generations in the database."""
    with closing(sqlite3.connect(folder / "db" / "forge.db")) as database:
        return [name for (name,) in database.execute("SELECT id FROM generations WHERE outcome = 'ok'")]


@pytest.mark.slow
async def test_a_deploy_loses_no_answered_request(
    tmp_path: Path, stand_ins: StandIns, redis_server: RedisServer
) -> None:
    """After SIGTERM, every begun response is completed and in the database once, and the exit is in time."""
    with free_ports(1) as (port,):
        plan = Plan(
            folder=str(tmp_path),
            port=port,
            figma_url=f"http://{LOOPBACK}:{stand_ins.figma_port}",
            openai_url=f"http://{LOOPBACK}:{stand_ins.openai_port}/v1",
            cache_url=redis_server.url,
        )
    async with two_workers(plan) as service, Callers(f"http://{LOOPBACK}:{port}") as callers, AsyncExitStack() as load:
        await until(callers.is_served, timeout_s=START_S)
        await until(lambda: has_workers(service.pid), timeout_s=START_S)
        await load.enter_async_context(Load(callers.request_known, rate_per_s=18))
        await load.enter_async_context(Load(callers.request_new, rate_per_s=4))
        await until(lambda: has_answered_enough(callers), timeout_s=START_S)
        terminated_s = time.monotonic()
        service.terminate()
        await asyncio.wait_for(service.wait(), 2 * (EXIT_S + GRACE_S))
        took_s = time.monotonic() - terminated_s
    await drain(tmp_path)
    names = stored(tmp_path)
    assert took_s <= EXIT_S + GRACE_S, (tmp_path / "service.log").read_text()
    assert callers.whole == callers.begun >= MIN_ANSWERED
    assert set(callers.answered) <= set(names)
    assert len(names) == len(set(names))


async def has_workers(pid: int) -> bool:
    """Return whether all workers are running."""
    return len(workers_of(pid)) == WORKERS


async def has_answered_enough(callers: Callers) -> bool:
    """Return whether enough requests were answered."""
    return len(callers.answered) >= MIN_ANSWERED
