"""`forge-otel migrate` on a new SQLite file."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from forge_otel import cli


def test_the_tables_are_created_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The database of the environment is migrated to the newest revision, and back."""
    monkeypatch.setenv("FORGE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/x.db")
    assert cli.main(["migrate"]) == 0
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"generations", "costs", "cache_stats", "rollups"} <= tables
    assert cli.main(["migrate", "--revision", "base"]) == 0
    assert capsys.readouterr().out.endswith("is at revision base\n")


@pytest.mark.parametrize(
    ("url", "options", "code", "sentence"),
    [
        ("", [], 2, "FORGE_DATABASE_URL is empty"),
        ("sqlite+aiosqlite:///{folder}/x.db", ["--revision", "9999"], 2, "--revision '9999' is not reachable"),
        ("postgresql://u:hunter2@127.0.0.1:1/x", [], 1, "nothing was changed"),
    ],
)
def test_a_failed_migration_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str,
    options: list[str],
    code: int,
    sentence: str,
) -> None:
    """An exit code, no stack trace, no password."""
    monkeypatch.setenv("FORGE_DATABASE_URL", url.format(folder=tmp_path))
    assert cli.main(["migrate", *options]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert "hunter2" not in error
