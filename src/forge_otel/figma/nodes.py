"""One node of a Figma file, with all that a generation reads of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forge_otel.keys import digest

__all__ = ["FigmaNode", "node_in"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaNode:
    """One node of a Figma file with all below it.

    Args:
        version: the file's version when it was read.
        document: the node in the API's shape.
        styles: style id to its name, for the styles that the subtree uses.
        age_s: how long ago it was last known to be so.
        is_stale: whether Figma could not be asked if it still is.
    """

    file_key: str
    node_id: str
    version: str
    document: Mapping[str, Any]
    styles: Mapping[str, str] = field(default_factory=dict)
    age_s: float = 0.0
    is_stale: bool = False

    @property
    def content_hash(self) -> str:
        """The hash of all that is read of the file: it stays when other parts are edited."""
        return digest([self.document, self.styles])


def node_in(file: Mapping[str, Any], node_id: str) -> tuple[Mapping[str, Any], Mapping[str, str]] | None:
    """Find a node in the answer of `GET /v1/files/:key`; return it with the names of the styles that it uses."""
    found = next((node for node in _below(file["document"]) if node["id"] == node_id), None)
    if found is None:
        return None
    used = {style_id for node in _below(found) for style_id in node.get("styles", {}).values()}
    return found, {style_id: style["name"] for style_id, style in file.get("styles", {}).items() if style_id in used}


def _below(root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    # Not by recursion: a stranger's file may be nested deeper than Python's stack.
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.get("children", ())))
