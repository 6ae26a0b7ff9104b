"""Brings a database to a version of our tables; safe when several workers start at once, in both directions."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from importlib import resources
from io import StringIO
from threading import Thread
from typing import Any, Final, TypeVar

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

# Any number will do, as long as no other program takes the same advisory lock; this is "forgeotl" in ASCII.
_LOCK_ID: Final = 0x666F7267656F746C
_TIMEOUT_S: Final = 120.0
_ALEMBIC: Final = threading.Lock()

T = TypeVar("T")


async def migrate(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`: upwards, or downwards to an older one or `"base"`.

    One transaction does all of it or nothing. Whoever comes second waits and finds nothing to do.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: the database cannot be reached or refuses.
        alembic.util.CommandError: there is no such revision.
    """

    def work(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
        # Alembic keeps what it works on in globals of the process: two migrations at once would mix their databases.
        with _ALEMBIC:
            config = _config(connection)
            is_down = _is_behind(ScriptDirectory.from_config(config), revision, present=_present(connection))
            (command.downgrade if is_down else command.upgrade)(config, revision)

    await _in_thread(_run(url, work))


async def current(url: str) -> str | None:
    """Return the revision that the database at `url` has, None if it has none of our tables."""
    return await _in_thread(_run(url, _present))


async def _in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in an event loop of its own: Alembic is plain synchronous code, and would stop ours.

    Not in the default executor, whose threads are waited for at exit: a migration may be waiting for another's lock.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            settle = partial(_resolve, result, asyncio.run(work))
        except Exception as exc:
            settle = partial(_fail, result, exc)
        with suppress(RuntimeError):  # the loop that asked may have ended
            loop.call_soon_threadsafe(settle)

    Thread(target=run, name="forge-migrate", daemon=True).start()
    return await result


def _resolve(result: "asyncio.Future[T]", value: T) -> None:
    if not result.done():
        result.set_result(value)


def _fail(result: "asyncio.Future[T]", exc: Exception) -> None:
    if not result.done():
        result.set_exception(exc)


async def _run(url: str, work: Callable[[Connection], T]) -> T:
    engine = create_engine(url, pool_size=1, command_timeout_s=_TIMEOUT_S)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(sqlite_begin="EXCLUSIVE")
            async with connection.begin():
                return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _config(connection: Connection) -> Config:
    config = Config(stdout=StringIO(), output_buffer=StringIO())
    config.set_main_option("script_location", str(resources.files("forge_otel.database") / "migrations"))
    config.attributes["connection"] = connection
    return config


def _present(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _is_behind(scripts: ScriptDirectory, revision: str, *, present: str | None) -> bool:
    """Say whether `revision` is older than what is there."""
    if present is None or revision == "head":
        return False
    older = {script.revision for script in scripts.iterate_revisions(present, "base")} - {present}
    return revision == "base" or revision in older
