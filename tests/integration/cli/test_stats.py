"""`forge-otel stats` on a database that a service has written."""

import pytest

from forge_otel import cli


def test_answers_savings_and_misses_are_summed(recorded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One of three was answered without the pipeline."""
    assert recorded
    assert cli.main(["stats"]) == 0
    shown = capsys.readouterr().out
    assert "3 generations, 1 of 3 answers without the pipeline (33.3%)" in shown
    assert "saved 0.42" in shown
    assert "misses            1 L1: the design tokens differ" in shown
    assert "misses            1 L1: no earlier request" in shown


@pytest.mark.parametrize("days", ["0", "-1", "nan", "4000"])
def test_the_range_has_bounds(recorded: list[str], days: str) -> None:
    """More than nothing, and at most ten years."""
    assert recorded
    assert cli.main(["stats", "--days", days]) == 2
