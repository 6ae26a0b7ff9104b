"""The command `forge-otel`: each module in this folder is a command of the same name.

A command's module has `add(commands)`, which adds its parser and sets the default `command`: a function from the parsed
arguments to an exit code.
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
        The exit code: 0 for success, 1 for a failure, 2 for wrong arguments or settings, 130 after Ctrl-C.
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
    parser = argparse.ArgumentParser(prog="forge-otel", description="Operate services that use forge-otel.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            # Every command is imported to parse any of them: what a command itself needs is imported in its functions,
            # so that `--help` stays fast.
            import_module(f"{__name__}.{module.name}").add(commands)
    return parser
