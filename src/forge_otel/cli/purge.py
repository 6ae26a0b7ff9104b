"""`forge-otel purge`: make entries of the exact cache of a running service unreachable."""

import getpass
import json
from argparse import Namespace
from typing import Any, Final

from forge_otel.cli._service import add_url, ask
from forge_otel.errors import ConfigurationError

__all__ = ["add"]

_BY: Final = ("key", "figma", "tokens", "type", "tenant", "version", "all")


def add(commands: Any) -> None:
    """Add the command."""
    purge = commands.add_parser("purge", help="make cached answers of a running service unreachable")
    purge.add_argument("by", choices=_BY, help="what they have in common; tokens by the SHA-256 of the token set")
    purge.add_argument("value", nargs="?", default="", help="which key, file, token set, type, tenant or version")
    purge.add_argument("--dry-run", action="store_true", help="only count")
    add_url(purge)
    purge.set_defaults(command=_purge)


def _purge(arguments: Namespace) -> int:
    if bool(arguments.value) == (arguments.by == "all"):
        raise ConfigurationError(["'all' takes no value, everything else needs one"])
    body = {"by": arguments.by, "value": arguments.value, "dry_run": arguments.dry_run, "who": _who()}
    found = ask(arguments.url, "/forge/api/purge", body=json.dumps(body).encode())
    count = "an unknown number of" if found["entries"] is None else f"{found['entries']}"
    more = "" if found["is_complete"] or found["entries"] is None else " or more"
    print(f"{count}{more} entries {'would be' if found['is_dry_run'] else 'were'} purged")
    return 0


def _who() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        return "cli"
