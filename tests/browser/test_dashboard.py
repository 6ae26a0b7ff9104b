"""The dashboard in Chromium, opened with a login link."""

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from tests.browser.seed import EVIL, seeded
from tests.unit.web.support import InMemoryForge

from forge_otel.web.middleware import ForgeMiddleware

pytestmark = [pytest.mark.chromium, pytest.mark.slow]

# The page never stops polling; Chromium fast-forwards its clock by this much.
VIRTUAL_MS = 6000
LIMIT_S = 60


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that serves only the lifespan protocol."""
    assert scope["type"] == "lifespan", scope


@asynccontextmanager
async def serving(forge: InMemoryForge) -> AsyncIterator[str]:
    """Serve the dashboard of `forge` and yield its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = ForgeMiddleware(nothing, forge=forge)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class Browser:
    """A headless Chromium with its own profile."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile

    async def read(self, url: str) -> str:
        """Return the document after the page has loaded its data."""
        return await self._run("--dump-dom", url)

    async def _run(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            shutil.which("chromium") or "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={self._profile}",
            f"--virtual-time-budget={VIRTUAL_MS}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return output.decode()


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return Browser(tmp_path / "profile")


def text_of(document: str, id_: str) -> str:
    """Return the text of the element with this id."""
    found = re.search(rf'id="{id_}"[^>]*>(.*?)</(?:p|span|ul|tbody|h2|dl|div)>', document, re.DOTALL)
    assert found is not None, f"no element {id_}"
    return re.sub(r"<[^>]+>", " ", found[1]).strip()


async def test_figures(browser: Browser) -> None:
    """The page shows the figures, and a component name with markup as text."""
    forge = await seeded()
    async with serving(forge) as base_url:
        document = await browser.read(forge.operations.login_link(base_url=base_url))
    assert text_of(document, "generations") == "60"
    assert text_of(document, "saved").startswith("$")
    assert text_of(document, "budget") == "today $12.00 of $12.00, 310,000 of 5,000,000 tokens"
    assert re.search('<p class="[^"]*bad[^"]*" id="budget"', document)
    assert text_of(document, "health") == "Degraded"
    assert document.count("<tr data-id=") == 60
    assert EVIL.replace("<", "&lt;").replace(">", "&gt;") in document
    assert "<title>forge" in document


async def test_one_generation(browser: Browser) -> None:
    """The URL of a generation opens its details, with the trace as a waterfall, parents before children."""
    forge = await seeded()
    async with serving(forge) as base_url:
        await browser.read(forge.operations.login_link(base_url=base_url))
        document = await browser.read(f"{base_url}/forge/#0198c0de-0010")
    assert text_of(document, "detail-title") == "Checkout / primary action 10"
    assert document.count("data-kind=") == 9
    assert document.index("POST /generate") < document.index("invoke_workflow") < document.index("chat gpt-5.1")
    assert "unknown price" in document


async def test_empty(browser: Browser) -> None:
    """The page of a new service explains how to get the first generation."""
    forge = await seeded(0)
    async with serving(forge) as base_url:
        document = await browser.read(forge.operations.login_link(base_url=base_url))
    assert "No generations yet." in document


async def test_without_login(browser: Browser) -> None:
    """Without a login the page shows only the login form."""
    async with serving(await seeded()) as base_url:
        document = await browser.read(f"{base_url}/forge/")
    assert 'type="password"' in document
    assert "Checkout" not in document
