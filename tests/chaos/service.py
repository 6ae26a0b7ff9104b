"""The service under test: the example service in a process of its own.

Run as a program, this file is a fork server. It imports everything once, which takes seconds, and then forks a child
for every line of its standard input, within 0.1 s. A line is a JSON object: `{"role": "service", …}` with the fields of
`Plan`, or `{"role": "stand_ins", …}` with ports. The response is the child's process id. Children exit with it.
"""

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NoReturn

import sqlalchemy
import uvicorn
from fastapi import FastAPI

from componentforge.app import create_app
from componentforge.figma_server import StandInFigma
from componentforge.offline_llm.server import create_offline_llm
from componentforge.schemas import COMPONENT_TYPES
from componentforge.settings import OFFLINE_MODEL, ServiceSettings
from forge_otel import Forge, Settings
from forge_otel.pricing import ModelPrice
from forge_otel.resilience.attempt_timeout import TimeoutOptions
from forge_otel.resilience.deadline import DeadlineOptions
from forge_otel.resilience.policies import Policies, defaults_for
from forge_otel.resilience.retry import RetryOptions

__all__ = ["ADMIN_TOKEN", "FIGMA_PASSCODE", "OPENAI_TOTAL_S", "Plan", "build"]

ADMIN_TOKEN: Final = "the fault matrix's token"
FIGMA_PASSCODE: Final = "the fault matrix's passcode"
OPENAI_TOTAL_S: Final = 2.0
OPEN_S: Final = 1.0
GRACE_S: Final = 3
PR_SET_PDEATHSIG: Final = 1
MANY_PAGES: Final = 2**30
# With costs, so that a test notices if they are lost or counted twice.
PRICE: Final = ModelPrice(input_usd=Decimal("0.25"), output_usd=Decimal(2))


def _soon_probed(name: str) -> Policies:
    """Return the default policies with a breaker that probes after 1 s instead of a minute."""
    policies = defaults_for(name)
    return replace(policies, breaker=replace(policies.breaker, open_s=OPEN_S, max_open_s=OPEN_S))


POLICIES: Final = {
    "figma": _soon_probed("figma"),
    "redis": _soon_probed("redis"),
    "redis:flights": _soon_probed("redis:flights"),
    "qdrant": _soon_probed("qdrant"),
    "langsmith": _soon_probed("langsmith"),
    # Short time limits as well: the default attempt timeout is a minute.
    "openai": replace(
        _soon_probed("openai"),
        deadline=DeadlineOptions(total_s=OPENAI_TOTAL_S),
        retry=RetryOptions(base_s=0.1),
        timeout=TimeoutOptions(attempt_s=OPENAI_TOTAL_S / 2),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Configuration of a service; strings and numbers only, because it is sent as JSON.

    Args:
        folder: folder of its files; the database is in `db`, the journal in `outbox`.
        clock_file: file with the error of its wall clock in seconds (see clock.c); empty for the right clock.
        is_unprivileged: True to give up root's permission to write read-only files.
        settings: further fields of the forge's `Settings`.
        environ: variables of other packages, such as OpenTelemetry's.
    """

    folder: str
    port: int
    figma_url: str
    openai_url: str
    cache_url: str
    clock_file: str = ""
    is_unprivileged: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)


def build(plan: Plan) -> FastAPI:
    """Return the application."""
    folder = Path(plan.folder)
    os.environ.update(plan.environ)
    usual: dict[str, Any] = {
        "cache_url": plan.cache_url,
        "archive_url": f"file://{folder}/artifacts",
        "database_url": f"sqlite+aiosqlite:///{folder}/db/forge.db",
        "outbox_dir": f"{folder}/outbox",
        "admin_token": ADMIN_TOKEN,
        "component_types": COMPONENT_TYPES,
        "generation_timeout_s": 10,
        "prices": {OFFLINE_MODEL: PRICE},
        "freeze_heap": True,
    }
    settings = Settings(**usual | dict(plan.settings))
    service = ServiceSettings(
        figma_url=plan.figma_url,
        figma_token="stand-in",
        figma_passcode=FIGMA_PASSCODE,
        openai_url=plan.openai_url,
        openai_key="offline",
    )
    return create_app(service, Forge(settings, policies=POLICIES))


def serve(plan: Plan) -> None:
    """Serve until the process is terminated."""
    if plan.clock_file and ctypes.CDLL(None).follow(plan.clock_file.encode()):
        raise SystemExit(f"{plan.clock_file} is not a clock file")
    if plan.is_unprivileged:
        give_up_privileges()
    fill_disk_on_request(Path(plan.folder, "disk-is-full"))
    uvicorn.run(build(plan), port=plan.port, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S)


def serve_stand_ins(*, figma_port: int, openai_port: int) -> None:
    """Serve Figma and the model without delays and in large chunks, so that the service is measured."""

    async def both() -> None:
        figma = stand_in(StandInFigma().app, figma_port)
        llm = stand_in(create_offline_llm(time_scale=float("inf"), chunk_tokens=1_000), openai_port)
        await asyncio.gather(figma.serve(), llm.serve())

    def stand_in(app: Any, port: int) -> uvicorn.Server:
        return uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False))

    asyncio.run(both())


def fill_disk_on_request(flag: Path) -> None:
    """Let SQLite fail to allocate another page while the file `flag` exists."""

    @sqlalchemy.event.listens_for(sqlalchemy.pool.Pool, "checkout")
    def limit(connection: Any, *_: object) -> None:
        if "sqlite" not in type(connection).__module__:
            return
        # SQLite raises the limit to the current size, so the next page is one too many.
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {1 if flag.exists() else MANY_PAGES}")
        cursor.close()


def give_up_privileges() -> None:
    """Give up the capabilities of root that override file permissions (capset(2))."""
    if os.geteuid():
        return
    version_3, words = 0x20080522, 2
    header = (ctypes.c_uint32 * 2)(version_3, 0)
    sets = (ctypes.c_uint32 * (3 * words))()
    libc = ctypes.CDLL(None, use_errno=True)
    # Effective, permitted and inheritable: none.
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def main() -> None:
    """Fork a child for each line of standard input, and print its process id."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Otherwise the first full collection of each child stops it for 0.2 s at a random moment.
    gc.collect()
    gc.freeze()
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        role = order.pop("role")
        child = os.fork()
        if not child:
            become(role, order)
        print(child, flush=True)


def become(role: str, order: dict[str, Any]) -> NoReturn:
    """Run a child in its role, with its own log; it is killed when the fork server exits."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order.pop("log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        if role == "service":
            serve(Plan(**order))
        else:
            serve_stand_ins(**order)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
