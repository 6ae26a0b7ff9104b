"""Requests to the Figma API in canonical form, which determines their cache key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from forge_otel.errors import BadRequest
from forge_otel.keys import digest

__all__ = ["Endpoint", "FigmaRequest", "parse_file_key", "parse_node_ids"]

Endpoint = Literal["file", "nodes", "styles", "images", "meta"]

_PATHS: Final = {
    "file": "/v1/files/{key}",
    "nodes": "/v1/files/{key}/nodes",
    "styles": "/v1/files/{key}/styles",
    "images": "/v1/images/{key}",
    "meta": "/v1/files/{key}/meta",
}
# Figma's rate limits are per tier; the first three endpoints share the scarcest one. The tier of styles is not
# published.
_TIERS: Final = {"file": "1", "nodes": "1", "images": "1", "meta": "meta", "styles": "styles"}
_FILE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_NODE_ID: Final = re.compile(r"I?\d{1,19}:\d{1,19}(?:;\d{1,19}:\d{1,19}){0,30}", re.ASCII)
_MAX_IDS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaRequest:
    """One request.

    Args:
        endpoint: name of the endpoint.
        file_key: key of the file.
        scope: digest of the token, because two tokens may see different files.
        params: query parameters, sorted.
    """

    endpoint: Endpoint
    file_key: str
    scope: str
    params: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Cache key of the response."""
        return digest(["forge:l0:v1", self.scope, self.file_key, self.endpoint, self.params])

    @property
    def path(self) -> str:
        """Path of the URL."""
        return self.route.format(key=quote(self.file_key, safe=""))

    @property
    def route(self) -> str:
        """Path with a placeholder for the file, for spans."""
        return _PATHS[self.endpoint]

    @property
    def tier(self) -> str:
        """Rate limit tier of the endpoint."""
        return _TIERS[self.endpoint]

    @property
    def is_pinned(self) -> bool:
        """Return whether the request names a version, whose response never changes."""
        return any(name == "version" for name, _ in self.params)

    @property
    def has_version(self) -> bool:
        """Return whether the response contains the version of the file."""
        return self.endpoint in {"file", "nodes", "meta"}


def parse_file_key(text: str) -> str:
    """Return `text` if it is the key of a file or branch.

    Raises:
        BadRequest: `text` cannot be a key.
    """
    if not _FILE_KEY.fullmatch(text):
        raise BadRequest("figma_key must have 1 to 128 letters, digits, '-' and '_'")
    return text


def parse_node_ids(ids: Sequence[str]) -> str:
    """Return node ids as a query parameter: in the API's spelling, sorted, without duplicates.

    Raises:
        BadRequest: an id is malformed, or there are none or too many.
    """
    # Links in the browser spell 1:2 as 1-2.
    parsed = sorted({one.strip().replace("-", ":") for one in ids})
    if not parsed or len(parsed) > _MAX_IDS or not all(map(_NODE_ID.fullmatch, parsed)):
        raise BadRequest(f"node ids look like '1:23'; give 1 to {_MAX_IDS} of them")
    return ",".join(parsed)
