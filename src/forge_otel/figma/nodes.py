"""One node of a Figma file with everything that a generation reads of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forge_otel.keys import digest

__all__ = ["FigmaNode", "find_node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaNode:
    """One node of a Figma file with its subtree.

    Args:
        file_key: key of the file.
        node_id: id of the node.
        version: version of the file.
        document: the node in the API's format.
        styles: names of the styles that the subtree uses, by style id.
        age_s: seconds since it was last known to be current.
        is_stale: whether Figma was unavailable for a check.
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
        """Hash of the subtree and its styles; edits of other parts of the file do not change it."""
        return digest([self.document, self.styles])


def find_node(file: Mapping[str, Any], node_id: str) -> tuple[Mapping[str, Any], Mapping[str, str]] | None:
    """Return a node of a `GET /v1/files/:key` response and the names of the styles it uses; None if it is missing."""
    found = next((node for node in _subtree(file["document"]) if node["id"] == node_id), None)
    if found is None:
        return None
    used = {style_id for node in _subtree(found) for style_id in node.get("styles", {}).values()}
    return found, {style_id: style["name"] for style_id, style in file.get("styles", {}).items() if style_id in used}


def _subtree(root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    # Without recursion: an untrusted file may be nested deeper than Python's stack.
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(reversed(node.get("children", ())))
