"""docs/faults.md matches the cells, and its example works."""

import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from scripts import faults
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from componentforge.serving import serve

pytestmark = pytest.mark.faults


def test_the_page_matches_the_cells() -> None:
    """If this fails, run `.venv/bin/python scripts/faults.py`."""
    assert faults.PAGE.read_text(encoding="utf-8") == faults.page(), "run scripts/faults.py"


async def test_the_example_measures_a_service() -> None:
    """A service with a short search timeout keeps the example's promise, one with a long timeout violates it."""
    (code,) = re.findall(r"```python\n(.*?)```", faults.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert await check(names["check"], search_timeout_s=0.2) == ()
    (fault,) = await check(names["check"], search_timeout_s=1.5)
    assert "99th percentile of suggest" in fault


async def check(example: Callable[..., Awaitable[tuple[str, ...]]], *, search_timeout_s: float) -> tuple[str, ...]:
    """Run the example on a service that responds without suggestions after `search_timeout_s`."""

    async def search(_request: Request) -> JSONResponse:
        return JSONResponse(["button"])

    async with AsyncExitStack() as stack:
        search_url = await stack.enter_async_context(serve(Starlette(routes=[Route("/", search)])))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=10))

        async def start_service(search_url: str) -> None:
            async def suggest(_request: Request) -> JSONResponse:
                try:
                    found = await search_client.get(search_url, timeout=search_timeout_s)
                except httpx.TimeoutException:
                    return JSONResponse([])
                return JSONResponse(found.json())

            search_client = await stack.enter_async_context(httpx.AsyncClient())
            service = Starlette(routes=[Route("/suggest", suggest)])
            client.base_url = await stack.enter_async_context(serve(service))

        address = urlsplit(search_url)
        return await example(client, address.hostname, address.port, start_service)
