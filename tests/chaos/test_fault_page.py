"""docs/faults.md says what the cells promise, and what it shows for users works."""

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


def test_the_page_is_the_one_that_the_cells_make() -> None:
    """After a change of what is promised: .venv/bin/python scripts/faults.py."""
    assert faults.PAGE.read_text(encoding="utf-8") == faults.page(), "run scripts/faults.py to write the page anew"


async def test_the_example_measures_a_service() -> None:
    """A service that goes on without its silent search keeps the promise of the example, one that waits does not."""
    (code,) = re.findall(r"```python\n(.*?)```", faults.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert await check(names["check"], patience_s=0.2) == ()
    (fault,) = await check(names["check"], patience_s=1.5)
    assert "99th percentile of suggest" in fault


async def check(example: Callable[..., Awaitable[tuple[str, ...]]], *, patience_s: float) -> tuple[str, ...]:
    """Run the example on a service that waits so long for its search before it answers without."""

    async def search(_request: Request) -> JSONResponse:
        return JSONResponse(["button"])

    async with AsyncExitStack() as stack:
        search_url = await stack.enter_async_context(serve(Starlette(routes=[Route("/", search)])))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=10))

        async def start_service(search_url: str) -> None:
            async def suggest(_request: Request) -> JSONResponse:
                try:
                    found = await asking.get(search_url, timeout=patience_s)
                except httpx.TimeoutException:
                    return JSONResponse([])
                return JSONResponse(found.json())

            asking = await stack.enter_async_context(httpx.AsyncClient())
            service = Starlette(routes=[Route("/suggest", suggest)])
            client.base_url = await stack.enter_async_context(serve(service))

        place = urlsplit(search_url)
        return await example(client, place.hostname, place.port, start_service)
