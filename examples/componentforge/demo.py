"""``forge-otel demo``: run the service, send it the published workload over HTTP and print the result.

Service, stand-in Figma and, without an OpenAI key, the offline model run in this process on loopback ports. Data goes
to a new folder below ``.forge/demo``, so that the figures cover this run only. ``FORGE_*`` variables override the
demo's settings.
"""

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from componentforge.app import create_app
from componentforge.cache_hooks import HOOKS
from componentforge.demo_report import Audit, print_report
from componentforge.figma_server import StandInFigma
from componentforge.offline_llm.server import DEFAULT_TIME_SCALE, create_offline_llm
from componentforge.schemas import COMPONENT_TYPES
from componentforge.serving import serve
from componentforge.settings import OFFLINE_MODEL, ServiceSettings
from componentforge.workload import Edit, Workload, WorkloadRequest, load_workload
from forge_otel import Forge, Settings
from forge_otel.settings import mask_url
from forge_otel.telemetry.recent_traces import render_tree

__all__ = ["main"]

# List price of gpt-4.1 in USD per million tokens, as of 2026-11.
OFFLINE_PRICE = {OFFLINE_MODEL: {"input_usd": "2.00", "output_usd": "8.00"}}
_REQUEST_TIMEOUT_S = 300.0
_DELIVERY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A running demo."""

    base_url: str
    folder: Path
    forge: Forge
    figma: StandInFigma
    service: ServiceSettings


def main(*, once: bool) -> int:
    """Run the demo.

    Args:
        once: exit after the table instead of serving until Ctrl-C.

    Returns:
        Exit code: 0 if the table agrees with database, metrics and artifacts, 1 if not, 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("OTEL_SERVICE_NAME", "componentforge")
    try:
        return asyncio.run(_run(once=once))
    except asyncio.CancelledError:
        print("\nstopped; every completed generation is on disk", file=sys.stderr)
        return 130


async def _run(*, once: bool) -> int:
    _cancel_on_signals()
    console = Console()
    workload = load_workload()
    async with _started() as demo, httpx.AsyncClient(base_url=demo.base_url, timeout=_REQUEST_TIMEOUT_S) as client:
        console.print(f"ComponentForge is running at {demo.base_url}", highlight=False)
        answers = await _drive(workload, demo, client, console)
        audit = await _audit(demo, client, answers)
        print_report(console, audit, demo.service, scale=DEFAULT_TIME_SCALE)
        trace_id = audit.sample_trace_id
        console.print(f"\n[bold]One trace[/] ({trace_id})")
        console.print(render_tree(demo.forge.telemetry.recent_traces.trace(trace_id)), markup=False, highlight=False)
        _print_addresses(console, demo)
        if not once:
            console.print("\nPress Ctrl-C to stop …")
            await asyncio.Event().wait()
    return 0 if audit.agrees else 1


def _cancel_on_signals() -> None:
    """Cancel the running task on SIGINT and SIGTERM."""
    # Cancellation leaves the servers' `async with` blocks, which finish open requests and flush the outbox.
    running = asyncio.current_task()
    if running is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)


@asynccontextmanager
async def _started() -> AsyncIterator[Demo]:
    folder = Path(".forge", "demo", datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f"))
    forge = Forge(Settings.from_env(_environ(folder)), hooks=HOOKS)
    figma = StandInFigma()
    async with serve(figma.app) as figma_url, serve(create_offline_llm()) as offline_url:
        environ = {"FIGMA_WEBHOOK_PASSCODE": secrets.token_urlsafe(24)} | os.environ
        service = ServiceSettings.from_env(environ, offline_url=f"{offline_url}/v1", figma_url=figma_url)
        async with serve(create_app(service, forge)) as base_url:
            yield Demo(base_url=base_url, folder=folder, forge=forge, figma=figma, service=service)


def _environ(folder: Path) -> Mapping[str, str]:
    own = {
        "FORGE_DATABASE_URL": f"sqlite+aiosqlite:///{folder}/forge.db",
        "FORGE_ARCHIVE_URL": f"file://{folder}/artifacts",
        "FORGE_OUTBOX_DIR": f"{folder}/outbox",
        "FORGE_COMPONENT_TYPES": ",".join(COMPONENT_TYPES),
        "FORGE_PRICES": json.dumps(OFFLINE_PRICE),
        "FORGE_ADMIN_TOKEN": secrets.token_urlsafe(32),
    }
    return own | {name: value for name, value in os.environ.items() if name.startswith("FORGE_")}


async def _drive(workload: Workload, demo: Demo, client: httpx.AsyncClient, console: Console) -> list[dict[str, Any]]:
    """Send the workload and return all responses; the requests of one step are concurrent."""
    answers: list[dict[str, Any]] = []
    total, numbers = sum(1 for _ in workload.requests()), count()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("generating", total=total)

        async def send(number: int, request: WorkloadRequest) -> None:
            response = await client.post("/generate", json=workload.body(request))
            answers.append(response.json() | {"status": response.status_code, "number": number})
            progress.advance(task)

        for step in workload.steps:
            if isinstance(step, Edit):
                design = workload.designs[step.design]
                demo.figma.edit(design.figma_key, design.node_id, text=step.text, fill=step.fill)
                if demo.service.figma_passcode:
                    webhook = f"{demo.base_url}/figma/webhook"
                    await demo.figma.announce(design.figma_key, url=webhook, passcode=demo.service.figma_passcode)
                continue
            async with asyncio.TaskGroup() as group:
                for request in step:
                    group.create_task(send(next(numbers), request))
    return answers


async def _audit(demo: Demo, client: httpx.AsyncClient, answers: list[dict[str, Any]]) -> Audit:
    await demo.forge.outbox.drain(timeout_s=_DELIVERY_TIMEOUT_S)
    page = (await client.get("/metrics")).raise_for_status().text
    return await Audit.of(
        answers, database=demo.forge.components.database, archive=demo.forge.components.archive, page=page
    )


def _print_addresses(console: Console, demo: Demo) -> None:
    addresses = {
        "dashboard": f"{demo.forge.operations.login_link(base_url=demo.base_url)}  (valid once, for 10 minutes)",
        "metrics": f"{demo.base_url}/metrics",
        "health": f"{demo.base_url}/readyz",
        "database": mask_url(demo.forge.settings.database_url) or "none",
        "artifacts": mask_url(demo.forge.settings.archive_url) or "none",
    }
    console.print("\n[bold]Where to look[/]")
    for name, address in addresses.items():
        console.print(f"  {name:10} {address}", soft_wrap=True, highlight=False)
