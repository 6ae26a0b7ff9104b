"""Classification of driver errors: rejected data and corrupted SQLite files."""

import sqlite3
from typing import Final

__all__ = ["is_corruption", "is_data_error"]

# SQLSTATE classes "data exception" and "integrity constraint violation".
_DATA_CLASSES: Final = ("22", "23")
_CORRUPTION_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# SQLite's extended error codes carry the primary code in their lowest byte.
_PRIMARY_CODE: Final = 0xFF


def is_data_error(exc: Exception) -> bool:
    """Return whether `exc` concerns the record being written; the database would accept a different one."""
    # Raised before the statement is sent: asyncpg's DataError is a ValueError, and sqlite3 raises OverflowError for an
    # integer of more than 64 bits.
    if isinstance(exc, ValueError | OverflowError | sqlite3.IntegrityError | sqlite3.DataError):
        return True
    return str(getattr(exc, "sqlstate", None) or "").startswith(_DATA_CLASSES)


def is_corruption(exc: BaseException | None) -> bool:
    """Return whether `exc` or one of its causes reports that an SQLite file is corrupted or not a database."""
    while exc is not None:
        if (getattr(exc, "sqlite_errorcode", None) or 0) & _PRIMARY_CODE in _CORRUPTION_CODES:
            return True
        # `orig` is where SQLAlchemy keeps the driver's error.
        exc = getattr(exc, "orig", None) or exc.__cause__
    return False
