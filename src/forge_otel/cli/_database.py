"""Access to the database of FORGE_DATABASE_URL."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from forge_otel.errors import ConfigurationError, NotFound, ServiceUnavailable, needs
from forge_otel.settings import Settings, mask_url

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["database_url", "existing_database_url", "read"]

T = TypeVar("T")


def database_url() -> str:
    """Return the URL of the database.

    Raises:
        ConfigurationError: FORGE_DATABASE_URL is empty.
    """
    url = Settings.from_env(os.environ).database_url
    if url is None:
        raise ConfigurationError(["FORGE_DATABASE_URL is empty; name the database of the service"])
    return url


def existing_database_url() -> str:
    """Return the URL of a database to read from.

    Raises:
        ConfigurationError: FORGE_DATABASE_URL is empty.
        NotFound: it names an SQLite file that does not exist.
    """
    from forge_otel.database.engine import parse_url

    url = database_url()
    parsed = parse_url(url)
    # Connecting would create the file.
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        raise NotFound(f"there is no file {parsed.database}; name the service's own in FORGE_DATABASE_URL")
    return url


async def read(url: str, query: Callable[["AsyncEngine"], Awaitable[T]]) -> T:
    """Run `query` with an engine for `url`.

    Raises:
        ServiceUnavailable: the database is unavailable, or its tables are missing or of another version.
    """
    from forge_otel.database.engine import create_engine

    with needs("sql"):
        from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(url, pool_size=1)
    try:
        return await query(engine)
    # An OSError of the output, not of the database: the reader of the pipe has gone.
    except BrokenPipeError:
        raise
    except (TimeoutError, OSError, SQLAlchemyError) as exc:
        # Only the type, because the message of a driver may contain the password.
        raise ServiceUnavailable(
            f"the database {mask_url(url)} is unavailable, or its tables are not those of this version "
            f"({type(exc).__name__}); `forge-otel migrate` creates them"
        ) from exc
    finally:
        await engine.dispose()
