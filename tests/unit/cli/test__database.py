"""Access of the commands to the database."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from forge_otel.cli._database import database_url, existing_database_url, read
from forge_otel.errors import ConfigurationError, NotFound, ServiceUnavailable


def test_the_url_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is an error that names it."""
    monkeypatch.setenv("FORGE_DATABASE_URL", "")
    with pytest.raises(ConfigurationError, match="FORGE_DATABASE_URL"):
        database_url()


def test_a_missing_file_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a database must not leave an empty file behind."""
    monkeypatch.setenv("FORGE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/none.db")
    with pytest.raises(NotFound, match=r"none\.db"):
        existing_database_url()
    assert list(tmp_path.iterdir()) == []


async def test_a_database_without_our_tables_is_an_error(tmp_path: Path) -> None:
    """The error names the remedy, and not the password of the URL."""

    async def query(engine: Any) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT * FROM generations"))

    with pytest.raises(ServiceUnavailable, match="forge-otel migrate"):
        await read(f"sqlite+aiosqlite:///{tmp_path}/empty.db", query)
    with pytest.raises(ServiceUnavailable) as unreachable:
        await read("postgresql://u:hunter2@127.0.0.1:1/x", query)
    assert "hunter2" not in str(unreachable.value)
