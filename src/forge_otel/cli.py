"""The command ``forge-otel``."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from forge_otel.errors import ConfigurationError, ForgeError, ServiceUnavailable, needs
from forge_otel.settings import Settings, mask_url

__all__ = ["main"]

_TIMEOUT_S = 10.0
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
    breakers = commands.add_parser("breakers", help="show the circuit breakers of a running service, or set one's mode")
    breakers.add_argument("name", nargs="?", help="the service whose breaker is set")
    breakers.add_argument("--mode", help="auto, forced_open, forced_closed or shadow")
    breakers.add_argument(
        "--url", default="http://127.0.0.1:8000", help="of the running service (default: %(default)s)"
    )
    breakers.set_defaults(command=_breakers)
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


def _breakers(arguments: argparse.Namespace) -> int:
    if (arguments.name is None) != (arguments.mode is None):
        raise ConfigurationError(["name a breaker and its --mode together, or neither to see all of them"])
    path, body = "/forge/api/breakers", None
    if arguments.name is not None:
        path += f"/{quote(arguments.name, safe='')}"
        body = json.dumps({"mode": arguments.mode}).encode()
    found = ask(arguments.url, path, body=body, token=os.environ.get("FORGE_ADMIN_TOKEN", ""))
    print(f"{'service':20} {'state':12} {'mode':14} {'ok':>9} {'failed':>7} {'refused':>8}")
    for guard in found:
        counts = f"{guard['successes']:9} {guard['failures']:7} {guard['rejected']:8}"
        wait_s = guard["rejects_for_s"]
        print(f"{guard['name']:20} {guard['state']:12} {guard['mode']:14} {counts}", end="")
        print(f"  refuses for {wait_s:.0f} s" if wait_s else "")
    return 0


def ask(url: str, path: str, *, body: bytes | None, token: str) -> Any:
    """Ask the admin API of a running service.

    Args:
        url: where the service is reached, with http or https.
        path: of the API.
        body: JSON to send; None only asks.
        token: the admin token.

    Raises:
        ConfigurationError: the address is none, or no token is set.
        ServiceUnavailable: the service does not answer, or refuses.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError([f"--url is {url!r}; it begins with http:// or https://"])
    if not token:
        raise ConfigurationError(["FORGE_ADMIN_TOKEN is not set; the admin API of the service wants it"])
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = Request(url.rstrip("/") + path, data=body, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            return json.load(response)
    except HTTPError as exc:
        problem = json.loads(exc.read() or b"{}") if "json" in exc.headers.get("content-type", "") else {}
        raise ServiceUnavailable(problem.get("detail", f"the service answered {exc.code}")) from exc
    except (URLError, TimeoutError) as exc:
        raise ServiceUnavailable(f"nothing answers at {url}: {exc}") from exc


if __name__ == "__main__":
    sys.exit(main())
