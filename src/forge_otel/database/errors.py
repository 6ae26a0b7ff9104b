"""Whether a database refused a record, or could not take any."""

import sqlite3
from typing import Final

__all__ = ["is_refusal"]

# SQLSTATE classes "data exception" and "integrity constraint violation".
_REFUSALS: Final = ("22", "23")


def is_refusal(exc: Exception) -> bool:
    """Say whether `exc` means the record: the database would take another one."""
    if isinstance(exc, ValueError | OverflowError | sqlite3.IntegrityError | sqlite3.DataError):
        return True
    return str(getattr(exc, "sqlstate", None) or "").startswith(_REFUSALS)
