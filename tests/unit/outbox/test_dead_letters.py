"""The file of dead letters, written by services and read by operators."""

from pathlib import Path

import pytest

from forge_otel.errors import ConfigurationError, NotFound
from forge_otel.outbox.dead_letters import FILE_NAME, DeadLetters
from forge_otel.outbox.inspect import dead_letters, requeue, waiting


def written(directory: Path) -> None:
    """Write two dead letters."""
    letters = DeadLetters(directory)
    letters.add("archive", b"one", reason="too large")
    letters.add("database", b"two", reason="no such column")
    letters.close()


def test_a_dead_letter_keeps_body_and_reason(tmp_path: Path) -> None:
    """The file is readable by its owner only, and lists the oldest letter first."""
    written(tmp_path)

    assert [(found.sink, found.body, found.reason) for found in dead_letters(tmp_path)] == [
        ("archive", b"one", "too large"),
        ("database", b"two", "no such column"),
    ]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_disk_that_fails_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The delivery goes on without the dead letter."""
    DeadLetters(tmp_path / "missing").add("archive", b"one", reason="too large")

    assert "dead letter of sink archive could not be stored" in caplog.text


def test_a_requeued_letter_waits_for_its_sink_only(tmp_path: Path) -> None:
    """It is in the journal again, and no dead letter any more."""
    written(tmp_path)
    first, second = dead_letters(tmp_path)

    assert requeue(tmp_path, [first], sinks=["archive", "database"]) == 1

    assert list(waiting(tmp_path)) == [b"one"]
    assert dead_letters(tmp_path) == [second]
    with pytest.raises(NotFound):
        requeue(tmp_path, [first], sinks=["archive", "database"])


def test_an_unknown_sink_is_refused(tmp_path: Path) -> None:
    """Nothing is moved for a sink that the service does not have."""
    written(tmp_path)

    with pytest.raises(ConfigurationError, match="there is no sink 'archive'"):
        requeue(tmp_path, dead_letters(tmp_path), sinks=["database"])

    assert len(dead_letters(tmp_path)) == 2
