"""`forge-otel migrate`: migrates the tables of the database to a revision."""

import asyncio
from argparse import Namespace
from typing import Any

from forge_otel.cli._database import database_url
from forge_otel.errors import ConfigurationError, ServiceUnavailable, needs
from forge_otel.settings import mask_url

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    migrate = commands.add_parser("migrate", help="migrate the database of FORGE_DATABASE_URL to a revision")
    migrate.add_argument("--revision", default="head", help="an Alembic revision, or 'base' (default: %(default)s)")
    migrate.set_defaults(command=_migrate)


def _migrate(arguments: Namespace) -> int:
    from forge_otel.database.migrate import current, migrate

    with needs("sql"):
        from alembic.util import CommandError
        from sqlalchemy.exc import SQLAlchemyError

    url = database_url()
    try:
        asyncio.run(migrate(url, arguments.revision))
        revision = asyncio.run(current(url))
    except CommandError as exc:
        raise ConfigurationError([f"--revision {arguments.revision[:64]!r} is not reachable: {exc}"]) from exc
    except (OSError, SQLAlchemyError) as exc:
        # Only the type, because the message of a driver may contain the password.
        raise ServiceUnavailable(
            f"the database {mask_url(url)} is unavailable or rejects the migration ({type(exc).__name__}); "
            "nothing was changed"
        ) from exc
    print(f"{mask_url(url)} is at revision {revision or 'base'}")
    return 0
