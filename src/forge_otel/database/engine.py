"""Engines with timeouts, without parameters in error messages, and with SQLite in WAL mode."""

from pathlib import Path
from typing import Any, Final

import orjson

from forge_otel.errors import ConfigurationError, needs

with needs("sql"):
    from sqlalchemy import URL, event, make_url
    from sqlalchemy.exc import ArgumentError
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["connect_options", "create_engine", "parse_url"]

_ASYNCPG: Final = "postgresql+asyncpg"
_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgres": _ASYNCPG, "postgresql": _ASYNCPG}
_CONNECT_TIMEOUT_S: Final = 5.0
_COMMAND_TIMEOUT_S: Final = 30.0
_BUSY_TIMEOUT_S: Final = 5.0
# Options that SQLAlchemy consumes itself.
_SQLALCHEMY_OPTIONS: Final = ("async_creator_fn", "prepared_statement_cache_size", "prepared_statement_name_func")


def parse_url(url: str) -> URL:
    """Parse an SQLAlchemy URL, and add the asynchronous driver where none is given.

    Raises:
        ConfigurationError: the URL is invalid, or names an SQLite database in memory.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as exc:
        raise ConfigurationError(["database_url is not an SQLAlchemy URL such as sqlite+aiosqlite:///./x.db"]) from exc
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    # Each connection would have a database in memory of its own.
    if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError(["database_url is an SQLite in memory; name a file, as in sqlite+aiosqlite:///./x.db"])
    if parsed.get_backend_name() == "sqlite":
        # Absolute, because the service may change its working directory later.
        parsed = parsed.set(database=str(Path(str(parsed.database)).absolute()))
    return parsed


def create_engine(url: str, *, pool_size: int = 4, command_timeout_s: float = _COMMAND_TIMEOUT_S) -> AsyncEngine:
    """Return an engine that is not connected yet; the folder of an SQLite file is created.

    Args:
        url: as `parse_url` accepts it.
        pool_size: number of connections that are kept open.
        command_timeout_s: timeout of one statement on PostgreSQL.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, pool_size=pool_size)
    connect_args = _asyncpg(command_timeout_s) if parsed.drivername == _ASYNCPG else {}
    return create_async_engine(parsed, connect_args=connect_args, **_options(pool_size))


def connect_options(engine: AsyncEngine, *, command_timeout_s: float = _COMMAND_TIMEOUT_S) -> dict[str, Any] | None:
    """Return the arguments of `asyncpg.connect` that correspond to `engine`; None for another driver."""
    if engine.url.drivername != _ASYNCPG:
        return None
    _, options = engine.dialect.create_connect_args(engine.url)
    return {name: value for name, value in options.items() if name not in _SQLALCHEMY_OPTIONS} | _asyncpg(
        command_timeout_s
    )


def _asyncpg(command_timeout_s: float) -> dict[str, Any]:
    # The defaults of asyncpg are 60 s to connect, and no limit for a statement.
    return {
        "timeout": _CONNECT_TIMEOUT_S,
        "command_timeout": command_timeout_s,
        "server_settings": {"application_name": "forge-otel"},
    }


def _sqlite(url: URL, *, pool_size: int) -> AsyncEngine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S}, **_options(pool_size))

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # Disables the driver's implicit BEGIN, which is sent too late and not before DDL; `begin` sends it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        # WAL: readers do not wait for the writer. NORMAL: a power cut can lose the last commits but cannot corrupt the
        # file (sqlite.org/pragma.html#pragma_synchronous).
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}")

    return engine


def _options(pool_size: int) -> dict[str, Any]:
    return {
        "pool_size": pool_size,
        # SQLAlchemy repeats the parameters in its error messages, and these are contents of users.
        "hide_parameters": True,
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
    }
