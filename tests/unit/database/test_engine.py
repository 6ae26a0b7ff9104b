"""Database URLs and what is refused."""

from pathlib import Path

import pytest
from sqlalchemy import text

from forge_otel.database.engine import create_engine, parse_url
from forge_otel.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("sqlite:///./x.db", f"sqlite+aiosqlite:///{Path.cwd()}/x.db"),
        ("sqlite+aiosqlite:///./x.db", f"sqlite+aiosqlite:///{Path.cwd()}/x.db"),
        ("postgres://u:p@host/db", "postgresql+asyncpg://u:p@host/db"),
        ("postgresql://u:p@host:1/db", "postgresql+asyncpg://u:p@host:1/db"),
    ],
)
def test_a_url_without_a_driver_gets_ours(url: str, meant: str) -> None:
    """URLs that other tools use work here too."""
    assert parse_url(url).render_as_string(hide_password=False) == meant


@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite:///:memory:", "no url", ""])
def test_a_url_that_cannot_work_is_refused(url: str) -> None:
    """A database in memory would lose its tables between two connections, and nonsense is named at once."""
    with pytest.raises(ConfigurationError, match="database_url"):
        parse_url(url)


async def test_sqlite_is_made_safe_for_several_processes(tmp_path: Path) -> None:
    """Readers do not block the writer, writers wait for each other, and foreign keys hold; the folder is made."""
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/a/b/forge.db")
    async with engine.connect() as connection:
        found = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    await engine.dispose()

    assert found == ["wal", 1, 1, 5000]
