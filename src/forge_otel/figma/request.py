"""What can be asked of Figma: one request, in the one spelling that decides its cache key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from forge_otel.errors import BadRequest
from forge_otel.keys import digest

__all__ = ["FigmaRequest", "What", "file_key_of", "ids_of"]

What = Literal["file", "nodes", "styles", "images", "meta"]

_PATHS: Final = {
    "file": "/v1/files/{key}",
    "nodes": "/v1/files/{key}/nodes",
    "styles": "/v1/files/{key}/styles",
    "images": "/v1/images/{key}",
    "meta": "/v1/files/{key}/meta",
}
# Figma counts calls by tiers; the first three share the scarcest one. That of styles is not published.
_TIERS: Final = {"file": "1", "nodes": "1", "images": "1", "meta": "meta", "styles": "styles"}
_FILE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_NODE_ID: Final = re.compile(r"I?\d{1,19}:\d{1,19}(?:;\d{1,19}:\d{1,19}){0,30}", re.ASCII)
_MAX_IDS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaRequest:
    """One request.

    Args:
        what: the endpoint.
        scope: digest of the token, because what one may see another may not.
        params: of the query, sorted.
    """

    what: What
    file_key: str
    scope: str
    params: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """What its answer is kept under."""
        return digest(["forge:l0:v1", self.scope, self.file_key, self.what, self.params])

    @property
    def path(self) -> str:
        """Of the request."""
        return self.route.format(key=quote(self.file_key, safe=""))

    @property
    def route(self) -> str:
        """The path with a hole for the file, for spans."""
        return _PATHS[self.what]

    @property
    def tier(self) -> str:
        """What Figma counts it with."""
        return _TIERS[self.what]

    @property
    def is_pinned(self) -> bool:
        """Whether it asks for one version, which never changes."""
        return any(name == "version" for name, _ in self.params)

    @property
    def tells_version(self) -> bool:
        """Whether the answer says of which version it is."""
        return self.what in {"file", "nodes", "meta"}


def file_key_of(text: str) -> str:
    """Return `text` if it can be the key of a file or branch.

    Raises:
        BadRequest: it cannot.
    """
    if not _FILE_KEY.fullmatch(text):
        raise BadRequest("figma_key must have 1 to 128 letters, digits, '-' and '_'")
    return text


def ids_of(ids: Sequence[str]) -> str:
    """Return node ids as the query has them: sorted, each once, spelt as the API does and not as links do.

    Raises:
        BadRequest: one cannot be an id, or there are none or too many.
    """
    # Links in the browser spell 1:2 as 1-2.
    found = sorted({one.strip().replace("-", ":") for one in ids})
    if not found or len(found) > _MAX_IDS or not all(map(_NODE_ID.fullmatch, found)):
        raise BadRequest(f"node ids look like '1:23'; give 1 to {_MAX_IDS} of them")
    return ",".join(found)
