"""Reads the database that FORGE_DATABASE_URL names."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from forge_otel.errors import ConfigurationError, NotFound, ServiceUnavailable, needs
from forge_otel.settings import Settings, mask_url

__all__ = ["open_database", "read"]

T = TypeVar("T")


def open_database(settings: Settings) -> str:
    """Return the URL of the database, once it is sure that there is one.

    Raises:
        ConfigurationError: none is named.
        NotFound: it is an SQLite file that is not there; asking must not make one.
    """
    from forge_otel.database.engine import parse_url

    if settings.database_url is None:
        raise ConfigurationError(["FORGE_DATABASE_URL is empty, so there is no database to ask"])
    parsed = parse_url(settings.database_url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        raise NotFound(f"there is no file {parsed.database}; name the service's own in FORGE_DATABASE_URL")
    return settings.database_url


async def read(url: str, question: Callable[[Any], Awaitable[T]]) -> T:
    """Ask `question` of an engine for `url`.

    Raises:
        ServiceUnavailable: the database does not answer, or lacks our tables.
    """
    from forge_otel.database.engine import create_engine

    with needs("sql"):
        from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(url, pool_size=1)
    try:
        return await question(engine)
    except (TimeoutError, OSError, SQLAlchemyError) as exc:
        raise ServiceUnavailable(
            f"the database {mask_url(url)} does not answer, or has not the tables of this version "
            f"({type(exc).__name__}); `forge-otel migrate` makes them"
        ) from exc
    finally:
        await engine.dispose()
