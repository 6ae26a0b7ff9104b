"""Requests to the admin API of a running service."""

import json
import os
from argparse import ArgumentParser
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from forge_otel.errors import ConfigurationError, ServiceUnavailable

__all__ = ["add_url", "request_json"]

_TIMEOUT_S: Final = 10.0


def add_url(parser: ArgumentParser) -> None:
    """Add the option for the URL of the service."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="URL of the service (default: %(default)s)")


def request_json(url: str, path: str, *, body: bytes | None = None) -> Any:
    """Call the admin API of a running service with the token of FORGE_ADMIN_TOKEN, and return the parsed response.

    Args:
        url: of the service, with http or https.
        path: of the endpoint.
        body: JSON to POST; None sends a GET.

    Raises:
        ConfigurationError: the URL is invalid, or the token is not set.
        ServiceUnavailable: the service does not respond, or returns an error.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError([f"--url is {url!r}; it begins with http:// or https://"])
    token = os.environ.get("FORGE_ADMIN_TOKEN", "")
    if not token:
        raise ConfigurationError(["FORGE_ADMIN_TOKEN is not set; the admin API of the service requires it"])
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = Request(url.rstrip("/") + path, data=body, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            return json.load(response)
    except HTTPError as exc:
        # A proxy in front of the service may respond with HTML.
        problem = json.loads(exc.read() or b"{}") if "json" in exc.headers.get("content-type", "") else {}
        raise ServiceUnavailable(problem.get("detail", f"the service responded with {exc.code}")) from exc
    except (URLError, TimeoutError) as exc:
        raise ServiceUnavailable(f"no response from {url}: {exc}") from exc
