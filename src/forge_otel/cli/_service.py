"""Asks the admin API of a running service."""

import json
import os
from argparse import ArgumentParser
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from forge_otel.errors import ConfigurationError, ServiceUnavailable

__all__ = ["add_url", "ask"]

_TIMEOUT_S: Final = 10.0


def add_url(parser: ArgumentParser) -> None:
    """Let the caller say which service is asked."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the running service (default: %(default)s)")


def ask(url: str, path: str, *, body: bytes | None = None) -> Any:
    """Ask the admin API of a running service, with the token of `FORGE_ADMIN_TOKEN`.

    Args:
        url: where the service is reached, with http or https.
        path: of the API.
        body: JSON to send; None only asks.

    Raises:
        ConfigurationError: the address is none, or no token is set.
        ServiceUnavailable: the service does not answer, or refuses.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError([f"--url is {url!r}; it begins with http:// or https://"])
    token = os.environ.get("FORGE_ADMIN_TOKEN", "")
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
