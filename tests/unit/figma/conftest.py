"""A stand-in for Figma over HTTP behind a proxy that can fail, and clients of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from componentforge.figma_server import StandInFigma
from componentforge.serving import serve
from forge_otel import Forge, Settings
from forge_otel.figma.client import FigmaClient
from forge_otel.figma.response import FigmaOptions
from forge_otel.testing.faults.proxy import FaultProxy

CONTRACT = json.loads(
    (Path(__file__).parents[2] / "examples" / "data" / "figma_contract.json").read_text(encoding="utf-8")
)
TOKEN = "secret"
PATIENT_S = 30.0
"""Wait of a caller on a busy machine, which may take longer than Figma."""
SILENT = {"archive_url": None, "database_url": None, "outbox_dir": None}


class Clock:
    """A wall clock that tests move."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class ContractCheck:
    """Checks every request and every response of the stand-in against the published contract."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.faults: list[str] = []
        self.closed: set[str] = set()
        """Endings of paths that the token has no access to."""
        self.gate = asyncio.Event()
        """Requests wait until it is set."""
        self.gate.set()
        self.arrived = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and check it with its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.arrived += 1
        await self.gate.wait()
        if any(scope["path"].endswith(ending) for ending in self.closed):
            refusal = {"status": 403, "err": "Invalid scope: file_metadata:read"}
            await JSONResponse(refusal, status_code=403)(scope, receive, send)
            return
        body, status = bytearray(), 0

        async def inspect(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            body.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, inspect)
        self._check(scope, status, bytes(body))

    def _check(self, scope: Scope, status: int, body: bytes) -> None:
        parts = scope["path"].split("/")
        route = "/".join([*parts[:3], "{file_key}", *parts[4:]])
        expected = CONTRACT["$paths"].get(route)
        if expected is None:
            self.faults.append(f"{route} is not in the contract")
            return
        pairs = [pair.partition("=")[::2] for pair in scope["query_string"].decode().split("&") if pair]
        query = dict(pairs)
        self.faults += [f"{route} has no parameter {name}" for name in query if name not in expected["query"]]
        self.faults += [f"{route} needs {name}" for name in expected["required"] if name not in query]
        if status == 200:
            self.faults += _broken(json.loads(body), expected["answer"])


def _broken(answer: Any, schema: str) -> list[str]:
    validator = Draft202012Validator({"$ref": f"#/$defs/{schema}", "$defs": CONTRACT["$defs"]})
    return [f"{schema} {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(answer)]


class FigmaSite:
    """The stand-in for Figma over HTTP, a proxy in front of it, and a clock."""

    def __init__(self, figma: StandInFigma, checked: ContractCheck, proxy: FaultProxy, base_url: str) -> None:
        self.figma = figma
        self.contract = checked
        self.proxy = proxy
        self.base_url = base_url
        self.clock = Clock()
        self._clients = AsyncExitStack()

    async def client(self, forge: Forge | None = None, *, token: str = TOKEN, **options: Any) -> FigmaClient:
        """Return a client, by default with its own store."""
        forge = forge or Forge(Settings(**SILENT))
        limits = FigmaOptions(**{"wait_s": PATIENT_S} | options)
        made = FigmaClient.of(forge, token=token, base_url=self.base_url, options=limits, clock_s=self.clock)
        return await self._clients.enter_async_context(made)

    async def until_requested(self, times: int) -> None:
        """Wait until that many requests have arrived."""
        async with asyncio.timeout(10):
            while self.contract.arrived < times:
                await asyncio.sleep(0.005)

    def calls(self, ending: str = "") -> int:
        """Return the number of requests for paths with that ending."""
        return sum(count for path, count in self.figma.requests.items() if path.endswith(ending))

    async def close(self) -> None:
        """Close the clients."""
        await self._clients.aclose()


@asynccontextmanager
async def figma_site() -> AsyncIterator[FigmaSite]:
    """Start the site."""
    figma = StandInFigma(tokens={TOKEN, "another"})
    checked = ContractCheck(figma.app)
    async with serve(checked) as url:
        place = urlsplit(url)
        async with FaultProxy("127.0.0.1", place.port or 0) as proxy:
            site = FigmaSite(figma, checked, proxy, proxy.url_for(url))
            try:
                yield site
            finally:
                await site.close()
    assert checked.faults == []


@pytest.fixture
async def site() -> AsyncIterator[FigmaSite]:
    """A site; all traffic between client and stand-in must match the published contract."""
    async with figma_site() as made:
        yield made
