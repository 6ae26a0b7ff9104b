"""`forge-otel migrate`: the tables of the database, as this version wants them."""

import asyncio
import os
from argparse import Namespace
from typing import Any

from forge_otel.errors import ConfigurationError, ServiceUnavailable, needs
from forge_otel.settings import Settings, mask_url

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    migrate = commands.add_parser("migrate", help="bring the database of FORGE_DATABASE_URL to a revision")
    migrate.add_argument("--revision", default="head", help="an Alembic revision, or 'base' (default: head)")
    migrate.set_defaults(command=_migrate)


def _migrate(arguments: Namespace) -> int:
    from forge_otel.database.migrate import current, migrate

    with needs("sql"):
        from alembic.util import CommandError
        from sqlalchemy.exc import SQLAlchemyError

    url = Settings.from_env(os.environ).database_url
    if url is None:
        raise ConfigurationError(["FORGE_DATABASE_URL is empty, so there is no database to migrate"])
    try:
        asyncio.run(migrate(url, arguments.revision))
        found = asyncio.run(current(url))
    except CommandError as exc:
        raise ConfigurationError([f"--revision {arguments.revision[:64]!r} cannot be reached: {exc}"]) from exc
    except (OSError, SQLAlchemyError) as exc:
        # What a driver says may repeat the password.
        raise ServiceUnavailable(
            f"the database {mask_url(url)} does not answer or refuses ({type(exc).__name__}); nothing was changed"
        ) from exc
    print(f"{mask_url(url)} is at revision {found or 'base'}")
    return 0
