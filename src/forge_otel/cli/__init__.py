"""The command `forge-otel`: each module beside this one is a command of the same name, and adds itself.

A command's module has `add(commands)`, which adds its parser and sets the default `command`: a function from the
parsed arguments to an exit code. What a command needs is imported when it runs, so that `--help` stays quick.
"""

import argparse
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from forge_otel.errors import ConfigurationError, ForgeError

__all__ = ["main"]


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
    parser = argparse.ArgumentParser(prog="forge-otel", description="The command of forge-otel.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            import_module(f"{__name__}.{module.name}").add(commands)
    return parser
