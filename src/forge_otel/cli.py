"""The command ``forge-otel``."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from forge_otel.errors import ConfigurationError, ForgeError, needs
from forge_otel.settings import Settings, mask_url

__all__ = ["main"]

_PACKAGE = Path(__file__).parent
# The shipped example: inside an installed wheel, or beside the sources of a checkout.
_EXAMPLES = (_PACKAGE / "_examples", _PACKAGE.parent.parent / "examples")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong arguments or settings.
    """
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except ConfigurationError as exc:
        print(f"forge-otel: {exc}", file=sys.stderr)
        return 2
    except ForgeError as exc:
        print(f"forge-otel: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="forge-otel", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="run the example service under a published workload and show what it did")
    demo.add_argument("--once", action="store_true", help="exit after the table instead of serving until Ctrl-C")
    demo.set_defaults(command=_demo)
    migrate = commands.add_parser("migrate", help="bring the database of FORGE_DATABASE_URL to a revision")
    migrate.add_argument("--revision", default="head", help="an Alembic revision, or 'base' (default: head)")
    migrate.set_defaults(command=_migrate)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    sys.path[:0] = [str(folder) for folder in _EXAMPLES if (folder / "componentforge").is_dir()][:1]
    with needs("demo"):
        demo = import_module("componentforge.demo")
    return int(demo.main(once=arguments.once))


def _migrate(arguments: argparse.Namespace) -> int:
    from forge_otel.database.migrate import current, migrate

    url = Settings.from_env(os.environ).database_url
    if url is None:
        raise ConfigurationError(["FORGE_DATABASE_URL is empty, so there is no database to migrate"])
    asyncio.run(migrate(url, arguments.revision))
    print(f"{mask_url(url)} is at revision {asyncio.run(current(url)) or 'base'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
