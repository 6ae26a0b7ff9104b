"""`forge-otel stats` sums up hits, savings and miss reasons."""

from pathlib import Path

import pytest

from forge_otel import cli


def test_hits_savings_and_misses_are_summed(recorded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One of three generations was answered without the pipeline."""
    assert recorded
    assert cli.main(["stats"]) == 0
    shown = capsys.readouterr().out
    assert "3 generations, 1 of 3 answers without the pipeline (33.3%)" in shown
    assert "saved 0.42" in shown
    assert "missed     L1 tokens: 1" in shown
    assert "missed     L1 cold: 1" in shown


def test_without_a_database_none_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A period must be at least one day."""
    monkeypatch.setenv("FORGE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/none.db")
    assert cli.main(["stats"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["stats", "--days", "0"]) == 2
