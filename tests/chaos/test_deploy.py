"""A deploy: two uvicorn workers under load are told to stop, and nothing that was answered is lost."""

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
from tests.chaos.site import BODY, LOOPBACK, ROOT, StandIns, free_ports, kept, until
from tests.servers import RedisServer

from forge_otel import Forge, Settings
from forge_otel.testing.fault_matrix.load import Load

pytestmark = pytest.mark.faults

WORKERS = 2
START_S = 60.0
EXIT_S = 5.0
ENOUGH_ANSWERS = 60
DRAIN_S = 20.0


class Callers:
    """Send requests and note how far each got: begun is the answer of which at least the head came."""

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
        """Whether anybody answers."""
        with suppress(httpx.HTTPError):
            return (await self._client.get("/livez")).status_code == 200
        return False

    async def ask_known(self, number: int) -> httpx.Response:
        """Ask for one of a few components."""
        return await self._ask(f"known {number % 6}")

    async def ask_fresh(self, number: int) -> httpx.Response:
        """Ask for a new component."""
        return await self._ask(f"fresh {number}")

    async def _ask(self, note: str) -> httpx.Response:
        body = BODY | {"requirements": {"note": note}}
        async with self._client.stream("POST", "/generate", json=body) as response:
            self.begun += 1
            await response.aread()
            self.whole += 1
        if response.status_code == 200:
            self.answered.append(kept(response).generation_id)
        return response


@asynccontextmanager
async def two_workers(plan: Plan) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service under uvicorn's own supervisor."""
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
    """Return the processes that a supervisor has started and that live."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()}


async def drain(folder: Path) -> None:
    """Start once more on what the workers left, until everything is delivered."""
    settings = Settings(
        archive_url=f"file://{folder}/artifacts",
        database_url=f"sqlite+aiosqlite:///{folder}/db/forge.db",
        outbox_dir=f"{folder}/outbox",
    )
    async with Forge(settings) as forge:
        assert await forge.outbox.drain(timeout_s=DRAIN_S)


def stored(folder: Path) -> list[str]:
    """Return the generations in the database that were answered."""
    with closing(sqlite3.connect(folder / "db" / "forge.db")) as database:
        return [name for (name,) in database.execute("SELECT id FROM generations WHERE outcome = 'ok'")]


@pytest.mark.slow
async def test_a_deploy_loses_no_answered_request(
    tmp_path: Path, stand_ins: StandIns, redis_server: RedisServer
) -> None:
    """SIGTERM under load: every answer that began came whole and is in the database once; the exit is in time."""
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
        await load.enter_async_context(Load(callers.ask_known, rate_per_s=18))
        await load.enter_async_context(Load(callers.ask_fresh, rate_per_s=4))
        await until(lambda: enough(callers), timeout_s=START_S)
        told_s = time.monotonic()
        service.terminate()
        await asyncio.wait_for(service.wait(), 2 * (EXIT_S + GRACE_S))
        took_s = time.monotonic() - told_s
    await drain(tmp_path)
    names = stored(tmp_path)
    assert took_s <= EXIT_S + GRACE_S, (tmp_path / "service.log").read_text()
    assert callers.whole == callers.begun >= ENOUGH_ANSWERS
    assert set(callers.answered) <= set(names)
    assert len(names) == len(set(names))


async def has_workers(pid: int) -> bool:
    """Whether all workers run."""
    return len(workers_of(pid)) == WORKERS


async def enough(callers: Callers) -> bool:
    """Whether the load is in full swing."""
    return len(callers.answered) >= ENOUGH_ANSWERS
