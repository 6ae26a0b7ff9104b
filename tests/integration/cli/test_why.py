"""`forge-otel why` explains who answered a generation and why caches missed."""

from pathlib import Path

import pytest

from forge_otel import cli


def test_a_miss_and_a_hit_are_explained(recorded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A cold miss, a hit with its origin and saving, and a miss with the part that differs."""
    cold, hit, changed = recorded
    assert cli.main(["why", cold]) == 0
    assert "L1          missed: cold (" in capsys.readouterr().out
    assert cli.main(["why", hit]) == 0
    shown = capsys.readouterr().out
    assert "by L1" in shown
    assert "saved 0.42" in shown
    assert f"origin      {cold}, made" in shown
    assert cli.main(["why", changed]) == 0
    assert "L1          missed: tokens (the design tokens differ" in capsys.readouterr().out


@pytest.mark.parametrize("generation_id", ["nothing", "'; drop table generations; --"])
def test_an_unknown_generation_is_an_error(recorded: list[str], generation_id: str) -> None:
    """It may not have been delivered yet."""
    assert recorded
    assert cli.main(["why", generation_id]) == 1


def test_without_a_database_none_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a missing SQLite file does not create it."""
    monkeypatch.setenv("FORGE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/none.db")
    assert cli.main(["why", "x"]) == 1
    assert list(tmp_path.iterdir()) == []
