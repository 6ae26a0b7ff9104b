"""`forge-otel why` on a database that a service has written."""

import pytest

from forge_otel import cli


def test_a_miss_and_a_hit_are_explained(recorded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A cold miss, a hit with its origin and savings, and a miss with the part that differs."""
    cold, hit, changed = recorded
    assert cli.main(["why", cold]) == 0
    assert "L1          miss: no earlier request like this one (cold)" in capsys.readouterr().out
    assert cli.main(["why", hit]) == 0
    shown = capsys.readouterr().out
    assert "answered    by L1" in shown
    assert "saved 0.42" in shown
    assert f"origin      {cold}, generated" in shown
    assert cli.main(["why", changed]) == 0
    assert (
        "L1          miss: the design tokens differ from the nearest earlier request (tokens)"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("generation_id", ["nothing", "'; drop table generations; --"])
def test_an_unknown_generation_is_an_error(
    recorded: list[str], capsys: pytest.CaptureFixture[str], generation_id: str
) -> None:
    """It may not have been delivered yet."""
    assert recorded
    assert cli.main(["why", generation_id]) == 1
    assert "is not in the database (yet)" in capsys.readouterr().err
