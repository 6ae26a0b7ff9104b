"""A running service for the commands that use the admin API."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette

from componentforge.serving import serve
from forge_otel import Forge, ForgeMiddleware, Settings

TOKEN = "a-token-of-the-tests"


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Forge, str]]:
    """A service with one guard, and its URL; the environment has its admin token."""
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", TOKEN)
    forge = Forge(Settings(archive_url=None, database_url=None, outbox_dir=None, admin_token=TOKEN))
    await forge.guard("openai").call(asyncio.sleep, 0)
    app = Starlette()
    app.add_middleware(ForgeMiddleware, forge=forge)
    async with serve(app) as base_url:
        yield forge, base_url
