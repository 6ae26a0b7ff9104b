"""`forge-otel breakers`: shows the circuit breakers of a running service, and sets the mode of one."""

import json
from argparse import Namespace
from typing import Any
from urllib.parse import quote

from forge_otel.cli._service import add_url, request_json
from forge_otel.errors import ConfigurationError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    breakers = commands.add_parser("breakers", help="show the circuit breakers of a running service, or set one's mode")
    breakers.add_argument("name", nargs="?", help="guarded service whose breaker is set")
    breakers.add_argument("--mode", help="auto, forced_open, forced_closed or shadow")
    add_url(breakers)
    breakers.set_defaults(command=_breakers)


def _breakers(arguments: Namespace) -> int:
    if (arguments.name is None) != (arguments.mode is None):
        raise ConfigurationError(["give a breaker and its --mode together, or neither to show all breakers"])
    path, body = "/forge/api/breakers", None
    if arguments.name is not None:
        # The name of a guard may contain a colon or a slash, as in `redis:flights`.
        path += f"/{quote(arguments.name, safe='')}"
        body = json.dumps({"mode": arguments.mode}).encode()
    found = request_json(arguments.url, path, body=body)
    print(f"{'service':20} {'state':12} {'mode':14} {'ok':>9} {'failed':>7} {'rejected':>8}")
    for guard in found:
        counts = f"{guard['successes']:9} {guard['failures']:7} {guard['rejected']:8}"
        wait_s = guard["rejects_for_s"]
        print(f"{guard['name']:20} {guard['state']:12} {guard['mode']:14} {counts}", end="")
        print(f"  rejects for {wait_s:.0f} s" if wait_s else "")
    return 0
