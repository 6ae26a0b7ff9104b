"""A running service with its helpers, each behind something that can fail, and what callers and operators see of it."""

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
    "FRESH_PER_S",
    "KNOWN_PER_S",
    "Kept",
    "Nursery",
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
# The smallest design of the sample files: what is measured is the service, not the model's diligence.
WORKLOAD: Final = load_workload()
BODY: Final = WORKLOAD.body(next(one for one in WORKLOAD.requests() if one.design.startswith("Badge/")))
OUTBOX_SAMPLE: Final = re.compile(r'^forge_outbox_([a-z]+?)(?:_total)?\{.*forge_sink="(\w+)".*\} (\S+)$', re.MULTILINE)
KNOWN: Final = 6
KNOWN_PER_S: Final = 18.0
FRESH_PER_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What the load remembers of an answer."""

    generation_id: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is special about the service for one row of the matrix; see rows.py.

    Args:
        proxies: in front of the helpers of this row, by name.
        settings, environ: of the `Plan`.
        archived: returns the components that are archived whole; None where nobody has to look.
        postgres: the server that the database is in; None where it is an SQLite file.
        select: asks that database; None where it is an SQLite file.
        traced: returns the generations that LangSmith shows, and how often; None where nobody has to look.
    """

    proxies: Mapping[str, FaultProxy] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    archived: Callable[[], Awaitable[set[str]]] | None = None
    postgres: PostgresServer | None = None
    select: Callable[[str], list[tuple[str, str]]] | None = None
    traced: Callable[[], Counter[str]] | None = None


class Nursery:
    """The program service.py, which forks a service in a tenth of a second; see there."""

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
        self._told()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            # The end of its input is the end of it, and of its children.
            self._process.communicate(timeout=STOP_S)

    def fork(self, role: str, **order: Any) -> int:
        """Start a child and return its process id."""
        assert self._process is not None
        assert self._process.stdin is not None
        print(json.dumps({"role": role, **order}), file=self._process.stdin, flush=True)
        return self._told()

    def _told(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def clock_library(folder: Path) -> Path | None:
    """Build clock.c; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    built = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, source], check=True)
    return built


@dataclass(frozen=True, slots=True)
class StandIns:
    """Figma and the model, for all tests of a module."""

    figma_port: int
    openai_port: int


@contextmanager
def free_ports(number: int) -> Iterator[list[int]]:
    """Ports that nobody listens on; kept bound inside the block, so that they differ."""
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
    """The service under a proxy each for Redis, the model and Figma, a folder for its files, and its callers."""

    def __init__(
        self,
        plan: Plan,
        nursery: Nursery,
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
        self._nursery = nursery
        self._pid = 0
        self._asked = count()

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "db" / "forge.db"

    @property
    def journal(self) -> Path:
        """The file of the outbox that is written now."""
        return max((self.folder / "outbox").glob("*.journal"))

    @property
    def pid(self) -> int:
        """Of the service."""
        return self._pid

    def log(self) -> str:
        """What the service wrote."""
        return (self.folder / "service.log").read_text(errors="replace")

    async def start(self, **changes: Any) -> None:
        """Start, with changes to the plan for this time and later ones, and wait until it answers."""
        self.plan = replace(self.plan, **changes)
        await self.launch()
        await until(self.is_live, timeout_s=START_S)

    async def launch(self) -> None:
        """Start, and wait for nothing."""
        log = str(self.folder / "service.log")
        self._pid = await asyncio.to_thread(self._nursery.fork, "service", log=log, **asdict(self.plan))

    async def stop(self, how: Signals = SIGTERM) -> float:
        """Send a signal and return after how many seconds the process was gone."""
        started_s = time.monotonic()
        os.kill(self._pid, how)
        await until(self._is_gone, timeout_s=STOP_S)
        return time.monotonic() - started_s

    async def kill(self) -> None:
        """End the process as a crash would; nothing happens if it is gone already."""
        with suppress(ProcessLookupError):
            await self.stop(SIGKILL)

    async def is_live(self) -> bool:
        """Whether it answers at all."""
        with suppress(httpx.HTTPError):
            return (await self.client.get("/livez")).status_code == 200
        return False

    async def prime(self) -> None:
        """Warm up: have everything generated that `ask_known` will ask for, something refused, and be looked at."""
        for answer in await asyncio.gather(*(self.ask_known(number) for number in range(KNOWN))):
            answer.raise_for_status()
        async with self.model.fault(Refuse()):
            assert (await self.ask_fresh()).status_code == 503
        (await self.ask_fresh()).raise_for_status()
        await self.observe()

    async def touch_designs(self) -> None:
        """Tell the service, as Figma does, that its design was edited: it may not be believed without asking."""
        event = {"event_type": "FILE_UPDATE", "passcode": FIGMA_PASSCODE, "file_key": BODY["figma_key"]}
        (await self.client.post("/figma/webhook", json=event)).raise_for_status()

    async def ask_known(self, number: int) -> httpx.Response:
        """Ask for what was generated before."""
        return await self._ask(f"known {number % KNOWN}")

    async def ask_fresh(self, _number: int = 0) -> httpx.Response:
        """Ask for what nobody has asked for."""
        return await self._ask(f"fresh {next(self._asked)}")

    def known(self, rate_per_s: float = KNOWN_PER_S) -> Load:
        """Callers who ask for what was generated before."""
        return Load(self.ask_known, name="known", rate_per_s=rate_per_s, keep=kept)

    def fresh(self, rate_per_s: float = FRESH_PER_S) -> Load:
        """Callers who ask for something new, which only the model can answer."""
        return Load(self.ask_fresh, name="fresh", rate_per_s=rate_per_s, needs={"OpenAI"}, keep=kept)

    async def observe(self) -> OperatorView:
        """See what an operator sees: the checks of /health that do not pass, and the outbox's figures in /metrics."""
        try:
            health, page = await asyncio.gather(
                self.client.get("/health", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}),
                self.client.get("/metrics"),
            )
        except httpx.HTTPError:
            return OperatorView()
        checks = health.json().get("checks", {})
        signs = {name for name, found in checks.items() if any(check["status"] != "pass" for check in found)}
        return OperatorView(signs=frozenset(signs), tallies=tallies(page.text))

    async def is_well(self, produced: dict[str, int]) -> bool:
        """Say whether all is as it was: nothing warns, the cache answers, and what was `produced` is delivered."""
        with suppress(httpx.HTTPError):
            # Asked in any case: an open breaker closes when a call succeeds.
            known, fresh = await asyncio.gather(self.ask_known(0), self.ask_fresh())
            if [known.status_code, fresh.status_code] != [200, 200] or kept(known).source != "L1":
                return False
        seen = await self.observe()
        # An error spike is a statement about the last minutes.
        if seen.signs - {"generations:errorRate"} or not seen.tallies:
            return False
        for sink, tally in seen.tallies.items():
            # A service that was started again counts from the start.
            due = produced[sink] = min(produced.get(sink, tally.produced), tally.produced)
            if tally.delivered + tally.dropped < due:
                return False
        return True

    def recovery(self) -> Callable[[], Any]:
        """Return what `exercise` asks after a fault."""
        produced: dict[str, int] = {}
        return lambda: self.is_well(produced)

    def stored(self) -> dict[str, list[str]]:
        """Return what the database has: generation ids, and what their records say under `degraded`."""
        return {name: json.loads(labels) for name, labels in self._select("SELECT id, degraded FROM generations")}

    def components(self, names: Collection[str]) -> set[str]:
        """Return the components of generations."""
        found = self._select("SELECT id, component_id FROM generations")
        return {component_id for name, component_id in found if name in names}

    def _select(self, query: str) -> list[tuple[str, str]]:
        if self.row.select is not None:
            return self.row.select(query)
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()

    async def _ask(self, note: str) -> httpx.Response:
        return await self.client.post("/generate", json=BODY | {"requirements": {"note": note}})

    async def _is_gone(self) -> bool:
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        return False


def kept(response: Response) -> Kept:
    """Remember what an answer is checked by later; raises on one that is not whole."""
    answer = json.loads(response.content)
    assert answer["code"]
    assert answer["artifacts"]
    return Kept(answer["generation_id"], answer["source"])


def tallies(page: str) -> dict[str, SinkTotals]:
    """Read the outbox's figures from a metrics page.

    Line by line: a parser of everything would hold up the event loop, and with it what passes through the proxies.
    """
    figures: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, sink, value in OUTBOX_SAMPLE.findall(page):
        figures[sink][name] += int(float(value))
    return {sink: SinkTotals(**found) for sink, found in figures.items()}


async def until(condition: Callable[[], Any], *, timeout_s: float, poll_s: float = 0.01) -> None:
    """Wait until an asynchronous condition holds, asked again after `poll_s`, and fail if that takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline_s, f"did not come true within {timeout_s} s"
        await asyncio.sleep(poll_s)


def turn_clock(file: Path, seconds: float) -> None:
    """Let the wall clock of the service that follows `file` be wrong by so much."""
    with file.open("r+b") as clock:
        clock.write(struct.pack("d", seconds))


@asynccontextmanager
async def running_site(
    nursery: Nursery, stand_ins: StandIns, redis: RedisServer, *, row: Row | None = None, with_clock: bool = False
) -> AsyncIterator[Site]:
    """A service that has been asked for what is known; its folder and its process go with the block."""
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
        site = Site(plan, nursery, redis=redis, cache=cache, model=model, figma=figma, row=row)
        # Keeps no connections: one that a restart of the service has closed would be an error of the client.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=TIMEOUT_S, limits=limits) as client:
            site.client = client
            try:
                await site.start()
                await site.prime()
                yield site
            finally:
                await site.kill()
                shutil.rmtree(folder)
