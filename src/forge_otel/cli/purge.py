"""`forge-otel purge`: invalidates entries of the exact cache of a running service."""

import getpass
import json
from argparse import Namespace
from typing import Any, Final

from forge_otel.cli._service import add_url, request_json
from forge_otel.errors import ConfigurationError

__all__ = ["add"]

_BY: Final = ("key", "figma", "tokens", "type", "tenant", "version", "all")


def add(commands: Any) -> None:
    """Add the command."""
    purge = commands.add_parser("purge", help="invalidate cached results of a running service")
    purge.add_argument("by", choices=_BY, help="property that selects the entries; a token set is given by its SHA-256")
    purge.add_argument("value", nargs="?", default="", help="the key, file, token set, type, tenant or version")
    purge.add_argument("--dry-run", action="store_true", help="only count the entries")
    add_url(purge)
    purge.set_defaults(command=_purge)


def _purge(arguments: Namespace) -> int:
    if bool(arguments.value) == (arguments.by == "all"):
        raise ConfigurationError(["'all' takes no value, every other property needs one"])
    body = {"by": arguments.by, "value": arguments.value, "dry_run": arguments.dry_run, "who": _operator()}
    found = request_json(arguments.url, "/forge/api/purge", body=json.dumps(body).encode())
    count = "an unknown number of" if found["entries"] is None else f"{found['entries']}"
    more = "" if found["is_complete"] or found["entries"] is None else " or more"
    print(f"{count}{more} entries {'would be' if found['is_dry_run'] else 'were'} purged")
    return 0


def _operator() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    # The user id of a container often has no name; Python before 3.13 raises KeyError for it.
    except (OSError, KeyError):
        return "cli"
