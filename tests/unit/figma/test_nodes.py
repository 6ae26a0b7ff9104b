"""A node is read with its subtree and the styles that it uses."""

from typing import Any

from forge_otel.figma.nodes import FigmaNode, find_node


def file_of(depth: int) -> dict[str, Any]:
    """Return a file with a chain of nested nodes and a sibling."""
    node: dict[str, Any] = {"id": f"1:{depth}", "styles": {"fill": "s1"}}
    for level in reversed(range(depth)):
        node = {"id": f"1:{level}", "children": [node]}
    root = {"id": "0:0", "children": [node, {"id": "2:1", "styles": {"text": "s2"}}]}
    return {"document": root, "styles": {"s1": {"name": "Primary"}, "s2": {"name": "Body"}}}


def test_a_node_has_the_styles_of_its_subtree() -> None:
    """Styles of other nodes are left out."""
    found = find_node(file_of(2), "1:1")
    assert found is not None
    document, styles = found
    assert (document["id"], styles) == ("1:1", {"s1": "Primary"})
    assert find_node(file_of(2), "9:9") is None


def test_files_may_be_nested_deeper_than_the_stack() -> None:
    """The search does not recurse."""
    assert find_node(file_of(5000), "1:5000") == ({"id": "1:5000", "styles": {"fill": "s1"}}, {"s1": "Primary"})


def test_the_content_hash_covers_subtree_and_styles() -> None:
    """The version and the age are not part of it."""

    def node(text: str, style: str, version: str) -> FigmaNode:
        return FigmaNode(file_key="k", node_id="1:1", version=version, document={"t": text}, styles={"s": style})

    assert node("a", "Primary", "1").content_hash == node("a", "Primary", "2").content_hash
    hashes = {node(text, style, "1").content_hash for text in "ab" for style in ("Primary", "Body")}
    assert len(hashes) == 4
