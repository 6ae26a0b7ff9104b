"""Classification of driver errors."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from forge_otel.database.errors import is_corruption, is_data_error


class _PostgresError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "concerns_data"),
    [
        (ValueError("naive"), True),
        (sqlite3.IntegrityError("UNIQUE"), True),
        (_PostgresError("22003"), True),
        (_PostgresError("23505"), True),
        (_PostgresError("53300"), False),
        (sqlite3.OperationalError("locked"), False),
        (ConnectionError("reset"), False),
    ],
)
def test_rejected_data_is_told_from_an_unavailable_database(error: Exception, concerns_data: bool) -> None:
    """Only errors of the record itself end its delivery."""
    assert is_data_error(error) is concerns_data


def test_corruption_is_found_in_the_cause(tmp_path: Path) -> None:
    """SQLAlchemy wraps the error of the driver."""
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, pytest.raises(sqlite3.DatabaseError) as found:
        database.execute("SELECT * FROM sqlite_master")
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = found.value

    assert is_corruption(found.value)
    assert is_corruption(wrapped)


def test_other_errors_are_no_corruption(tmp_path: Path) -> None:
    """A missing table and a full disk do not replace the file."""
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, pytest.raises(sqlite3.OperationalError) as missing:
        database.execute("SELECT * FROM nothing")

    assert not is_corruption(missing.value)
    assert not is_corruption(OSError("disk full"))
    assert not is_corruption(None)
