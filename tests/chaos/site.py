"""The example service with its dependencies, each behind a fault, and the views of callers and operators."""

import asyncio
import json
import os
import re
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any, Final, Self

import httpx
from tests.chaos.service import ADMIN_TOKEN, FIGMA_PASSCODE, Plan
from tests.servers import PostgresServer, RedisServer

from componentforge.workload import load_workload
from forge_otel.testing.fault_matrix.exercise import OperatorView, SinkTotals
from forge_otel.testing.fault_matrix.load import Load, Response
from forge_otel.testing.faults.proxy import FaultProxy, Refuse

__all__ = [
    "KNOWN_PER_S",
    "NEW_PER_S",
    "AnsweredGeneration",
    "ForkServer",
    "Row",
    "Site",
    "StandIns",
    "clock_library",
    "free_ports",
    "running_site",
    "until",
]

ROOT: Final = Path(__file__).parent.parent.parent
LOOPBACK: Final = "127.0.0.1"
START_S: Final = 20.0
STOP_S: Final = 20.0
TIMEOUT_S: Final = 20.0
# The smallest design of the sample files, so that the service is measured and not the model.
WORKLOAD: Final = load_workload()
BODY: Final = WORKLOAD.body(next(one for one in WORKLOAD.requests() if one.design.startswith("Badge/")))
OUTBOX_SAMPLE: Final = re.compile(r'^forge_outbox_([a-z]+?)(?:_total)?\{.*forge_sink="(\w+)".*\} (\S+)$', re.MULTILINE)
KNOWN: Final = 6
KNOWN_PER_S: Final = 18.0
NEW_PER_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class AnsweredGeneration:
    """The part of a successful response by which its record is found."""

    generation_id: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The special dependencies of the service for one row of the matrix; see rows.py.

    Args:
        proxies: proxies in front of these dependencies, by name.
        settings, environ: fields of the `Plan`.
        archived: returns the components whose archive is complete; None if the archive is not checked.
        postgres: server of the database; None for an SQLite file.
        select: queries that database; None for an SQLite file.
        traced: returns how often each generation was traced; None if traces are not checked.
    """

    proxies: Mapping[str, FaultProxy] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    archived: Callable[[], Awaitable[set[str]]] | None = None
    postgres: PostgresServer | None = None
    select: Callable[[str], list[tuple[str, str]]] | None = None
    traced: Callable[[], Counter[str]] | None = None


class ForkServer:
    """The program service.py, which forks services within 0.1 s."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.clock = clock_library(folder)

    def __enter__(self) -> Self:
        environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")])}
        if self.clock is not None:
            environ["LD_PRELOAD"] = str(self.clock)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.service"],
            cwd=self._folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read_pid()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            # It exits at the end of its input, and its children with it.
            self._process.communicate(timeout=STOP_S)

    def fork(self, role: str, **order: Any) -> int:
        """Start a child and return its process id."""
        assert self._process is not None
        assert self._process.stdin is not None
        print(json.dumps({"role": role, **order}), file=self._process.stdin, flush=True)
        return self._read_pid()

    def _read_pid(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def clock_library(folder: Path) -> Path | None:
    """Build clock.c and return the library; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    built = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, source], check=True)
    return built


@dataclass(frozen=True, slots=True)
class StandIns:
    """Ports of the stand-ins for Figma and the model, shared by the tests of a module."""

    figma_port: int
    openai_port: int


@contextmanager
def free_ports(number: int) -> Iterator[list[int]]:
    """Yield free ports; they stay bound inside the block, so that they differ."""
    found = [socket.socket() for _ in range(number)]
    try:
        for one in found:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((LOOPBACK, 0))
        yield [one.getsockname()[1] for one in found]
    finally:
        for one in found:
            one.close()


class Site:
    """The service, a folder for its files, its client, and a proxy each for Redis, the model and Figma."""

    def __init__(
        self,
        plan: Plan,
        fork_server: ForkServer,
        *,
        redis: RedisServer,
        cache: FaultProxy,
        model: FaultProxy,
        figma: FaultProxy,
        row: Row,
    ) -> None:
        self.plan = plan
        self.folder = Path(plan.folder)
        self.redis = redis
        self.cache = cache
        self.model = model
        self.row = row
        self.figma = figma
        self.client: httpx.AsyncClient
        self._nursery = fork_server
        self._pid = 0
        self._new_numbers = count()

    @property
    def database(self) -> Path:
        """The SQLite file of the database."""
        return self.folder / "db" / "forge.db"

    @property
    def journal(self) -> Path:
        """The current journal file of the outbox."""
        return max((self.folder / "outbox").glob("*.journal"))

    @property
    def pid(self) -> int:
        """The process id of the service."""
        return self._pid

    def log(self) -> str:
        """Return the log of the service."""
        return (self.folder / "service.log").read_text(errors="replace")

    async def start(self, **changes: Any) -> None:
        """Change the plan, start the service and wait until it responds."""
        self.plan = replace(self.plan, **changes)
        await self.launch()
        await until(self.is_live, timeout_s=START_S)

    async def launch(self) -> None:
        """Start the service without waiting for it."""
        log = str(self.folder / "service.log")
        self._pid = await asyncio.to_thread(self._nursery.fork, "service", log=log, **asdict(self.plan))

    async def stop(self, signal: Signals = SIGTERM) -> float:
        """Send a signal and return the seconds until the process has exited."""
        started_s = time.monotonic()
        os.kill(self._pid, signal)
        await until(self._is_gone, timeout_s=STOP_S)
        return time.monotonic() - started_s

    async def kill(self) -> None:
        """Kill the process if it is running."""
        with suppress(ProcessLookupError):
            await self.stop(SIGKILL)

    async def is_live(self) -> bool:
        """Return whether the service responds."""
        with suppress(httpx.HTTPError):
            return (await self.client.get("/livez")).status_code == 200
        return False

    async def warm_up(self) -> None:
        """Generate the known components, cause a refusal and read the operator's view."""
        for response in await asyncio.gather(*(self.request_known(number) for number in range(KNOWN))):
            response.raise_for_status()
        async with self.model.fault(Refuse()):
            assert (await self.request_new()).status_code == 503
        (await self.request_new()).raise_for_status()
        await self.observe()

    async def touch_designs(self) -> None:
        """Send Figma's webhook for an edit of the design, so that the cached copy has to be revalidated."""
        event = {"event_type": "FILE_UPDATE", "passcode": FIGMA_PASSCODE, "file_key": BODY["figma_key"]}
        (await self.client.post("/figma/webhook", json=event)).raise_for_status()

    async def request_known(self, number: int) -> httpx.Response:
        """Request a component that was generated before."""
        return await self._request(f"known {number % KNOWN}")

    async def request_new(self, _number: int = 0) -> httpx.Response:
        """Request a new component."""
        return await self._request(f"new {next(self._new_numbers)}")

    def known_load(self, rate_per_s: float = KNOWN_PER_S) -> Load:
        """Return a load of requests for known components."""
        return Load(self.request_known, name="known", rate_per_s=rate_per_s, extract=answered)

    def new_load(self, rate_per_s: float = NEW_PER_S) -> Load:
        """Return a load of requests for new components, which require the model."""
        return Load(self.request_new, name="new", rate_per_s=rate_per_s, requires={"OpenAI"}, extract=answered)

    async def observe(self) -> OperatorView:
        """Return the checks of /health that do not pass, and the record counts of the outbox on /metrics."""
        try:
            health, page = await asyncio.gather(
                self.client.get("/health", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}),
                self.client.get("/metrics"),
            )
        except httpx.HTTPError:
            return OperatorView()
        checks = health.json().get("checks", {})
        warnings = {name for name, found in checks.items() if any(check["status"] != "pass" for check in found)}
        return OperatorView(warnings=frozenset(warnings), sinks=sink_totals(page.text))

    async def is_well(self, produced: dict[str, int]) -> bool:
        """Return whether no check warns, the cache is used, and the records in `produced` are delivered."""
        with suppress(httpx.HTTPError):
            # Requested in any case: an open breaker closes after a successful call.
            known, new = await asyncio.gather(self.request_known(0), self.request_new())
            if [known.status_code, new.status_code] != [200, 200] or answered(known).source != "L1":
                return False
        view = await self.observe()
        # The error rate covers the last minutes, including the fault.
        if view.warnings - {"generations:errorRate"} or not view.sinks:
            return False
        for sink, totals in view.sinks.items():
            # A restarted service counts from 0.
            due = produced[sink] = min(produced.get(sink, totals.produced), totals.produced)
            if totals.delivered + totals.dropped < due:
                return False
        return True

    def recovery(self) -> Callable[[], Any]:
        """Return the `has_recovered` function of `exercise`."""
        produced: dict[str, int] = {}
        return lambda: self.is_well(produced)

    def stored(self) -> dict[str, list[str]]:
        """Return the labels in `degraded` of the generations in the database, by id."""
        return {name: json.loads(labels) for name, labels in self._select("SELECT id, degraded FROM generations")}

    def components(self, names: Collection[str]) -> set[str]:
        """Return the component ids of generations."""
        found = self._select("SELECT id, component_id FROM generations")
        return {component_id for name, component_id in found if name in names}

    def _select(self, query: str) -> list[tuple[str, str]]:
        if self.row.select is not None:
            return self.row.select(query)
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()

    async def _request(self, note: str) -> httpx.Response:
        return await self.client.post("/generate", json=BODY | {"requirements": {"note": note}})

    async def _is_gone(self) -> bool:
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        return False


def answered(response: Response) -> AnsweredGeneration:
    """Return the facts of a successful response; fail if it is incomplete."""
    body = json.loads(response.content)
    assert body["code"]
    assert body["artifacts"]
    return AnsweredGeneration(body["generation_id"], body["source"])


def sink_totals(page: str) -> dict[str, SinkTotals]:
    """Return the record counts of the outbox by sink, from a metrics page."""
    # A full parser would block the event loop, and with it the proxies.
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, sink, value in OUTBOX_SAMPLE.findall(page):
        totals[sink][name] += int(float(value))
    return {sink: SinkTotals(**counts) for sink, counts in totals.items()}


async def until(condition: Callable[[], Any], *, timeout_s: float, poll_s: float = 0.01) -> None:
    """Poll an asynchronous condition until it holds; fail after `timeout_s` seconds."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline_s, f"the condition did not hold within {timeout_s} s"
        await asyncio.sleep(poll_s)


def turn_clock(file: Path, seconds: float) -> None:
    """Set the error of the wall clock of the service that reads `file`."""
    with file.open("r+b") as clock:
        clock.write(struct.pack("d", seconds))


@asynccontextmanager
async def running_site(
    fork_server: ForkServer,
    stand_ins: StandIns,
    redis: RedisServer,
    *,
    row: Row | None = None,
    with_clock: bool = False,
) -> AsyncIterator[Site]:
    """Run a warmed-up service; remove its process and folder at the end."""
    row = row or Row()
    folder = Path(tempfile.mkdtemp(prefix="forge-faults-"))
    clock = folder / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    async with (
        FaultProxy(LOOPBACK, redis.port) as cache,
        FaultProxy(LOOPBACK, stand_ins.openai_port) as model,
        FaultProxy(LOOPBACK, stand_ins.figma_port) as figma,
    ):
        with free_ports(1) as (port,):
            plan = Plan(
                folder=str(folder),
                port=port,
                figma_url=figma.url_for(f"http://{LOOPBACK}:{stand_ins.figma_port}"),
                openai_url=model.url_for(f"http://{LOOPBACK}:{stand_ins.openai_port}/v1"),
                cache_url=cache.url_for(redis.url),
                clock_file=str(clock) if with_clock else "",
                settings=row.settings,
                environ=row.environ,
            )
        site = Site(plan, fork_server, redis=redis, cache=cache, model=model, figma=figma, row=row)
        # No keep-alive: a connection that a restart of the service has closed would fail the next request.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=TIMEOUT_S, limits=limits) as client:
            site.client = client
            try:
                await site.start()
                await site.warm_up()
                yield site
            finally:
                await site.kill()
                shutil.rmtree(folder)
