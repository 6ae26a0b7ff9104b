"""Databases of both kinds."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forge_otel.sinks.sql import SqlSink


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite+aiosqlite:///{tmp_path}/folder/forge.db"


@pytest.fixture
async def sink(url: str) -> AsyncIterator[SqlSink]:
    """An open sink on an empty database of each kind."""
    async with SqlSink(url) as opened:
        yield opened
