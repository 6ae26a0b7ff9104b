"""Migration of a database to a revision of our tables, in both directions; safe when several workers start at once."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from importlib import resources
from io import StringIO
from typing import Any, Final, TypeVar

from forge_otel._internal.worker_thread import run_in_daemon_thread
from forge_otel.database import VERSION_TABLE
from forge_otel.database.engine import create_engine
from forge_otel.errors import needs

with needs("sql"):
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection, text

__all__ = ["current", "migrate"]

# Identifies our advisory lock among those of other programs: "forgeotl" in ASCII.
_LOCK_ID: Final = 0x666F7267656F746C
_TIMEOUT_S: Final = 120.0
_ALEMBIC: Final = threading.Lock()

T = TypeVar("T")


async def migrate(url: str, revision: str = "head") -> None:
    """Migrate the database at `url` up or down to `revision`, in one transaction.

    Concurrent migrations wait for each other.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: the database is unreachable or rejects a statement.
        alembic.util.CommandError: there is no such revision.
    """

    def work(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
        # Alembic keeps its context in globals of the process: concurrent migrations would mix up their databases.
        with _ALEMBIC:
            config = _config(connection)
            is_down = _is_behind(ScriptDirectory.from_config(config), revision, present=_present(connection))
            (command.downgrade if is_down else command.upgrade)(config, revision)

    await _in_thread(_run(url, work))


async def current(url: str) -> str | None:
    """Return the revision of the database at `url`, None if it has none of our tables."""
    return await _in_thread(_run(url, _present))


async def _in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on an event loop of its own, in a daemon thread."""
    # Alembic is synchronous and would block our loop. Another process may hold the migration lock; a daemon thread that
    # waits for it does not hold up the exit.
    return await run_in_daemon_thread(lambda: asyncio.run(work), name="forge-migrate")


async def _run(url: str, work: Callable[[Connection], T]) -> T:
    engine = create_engine(url, pool_size=1, command_timeout_s=_TIMEOUT_S)
    try:
        async with engine.connect() as connection:
            # SQLite has no advisory locks: there, the transaction itself makes concurrent migrations wait.
            await connection.execution_options(sqlite_begin="EXCLUSIVE")
            async with connection.begin():
                return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _config(connection: Connection) -> Config:
    # Alembic would print to the standard output, which belongs to the application.
    config = Config(stdout=StringIO(), output_buffer=StringIO())
    config.set_main_option("script_location", str(resources.files("forge_otel.database") / "migrations"))
    config.attributes["connection"] = connection
    return config


def _present(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _is_behind(scripts: ScriptDirectory, revision: str, *, present: str | None) -> bool:
    """Return whether `revision` is older than the present one."""
    if present is None or revision == "head":
        return False
    older = {script.revision for script in scripts.iterate_revisions(present, "base")} - {present}
    return revision == "base" or revision in older
