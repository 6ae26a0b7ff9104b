"""Write the sample files, ``python -m componentforge.designs.make``; the output is deterministic."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from componentforge.designs import FILES, FOLDER
from componentforge.designs.atlas import ATLAS
from componentforge.designs.harbor import HARBOR
from componentforge.designs.layout import set_bounding_boxes
from componentforge.designs.nodes import Node, Palette
from componentforge.designs.sample_file import SampleFile, component_node, component_set_node

__all__ = ["build", "main", "render"]

_SHEET_GAP_PX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class _Styles:
    """Ids and ``styles`` table of one file's styles, in the order of the palette."""

    ids: Mapping[tuple[str, str], str]
    table: Mapping[str, Node]


def build(file_key: str) -> dict[str, Any]:
    """Return a sample file as the body of ``GET /v1/files/:key``."""
    sample = {"atlas.json": ATLAS, "harbor.json": HARBOR}[FILES[file_key]]
    styles = _styles(sample.palette, file_key=file_key)
    pages = [_page(name, sample, number=number) for number, name in enumerate(sample.pages, start=1)]
    document = {"id": "0:0", "name": "Document", "type": "DOCUMENT", "scrollBehavior": "SCROLLS", "children": pages}
    for node in _walk(document):
        if "styles" in node:
            node["styles"] = {kind: styles.ids[kind, name] for kind, name in node["styles"].items()}
    components, component_sets = _catalog(document, descriptions=sample.descriptions, file_key=file_key)
    return {
        "document": document,
        "components": components,
        "componentSets": component_sets,
        "schemaVersion": 0,
        "styles": dict(styles.table),
        "name": sample.name,
        "lastModified": sample.last_modified,
        "thumbnailUrl": f"https://figma.example/thumbnails/{file_key}",
        "version": sample.version,
        "role": "viewer",
        "editorType": "figma",
        "linkAccess": "org_view",
    }


def render(file_key: str) -> str:
    """Return a sample file as JSON text."""
    text = json.dumps(build(file_key), ensure_ascii=False, separators=(",", ":"))
    # One node per line, so that a changed node is one changed line of a diff.
    return text.replace('{"id":', '\n{"id":') + "\n"


def _page(name: str, sample: SampleFile, *, number: int) -> Node:
    """Return one page with its components in a column and its nodes numbered in document order."""
    children, top = [], 0.0
    for component in sample.pages[name]:
        node = component_set_node(component) if len(component.variants) > 1 else component_node(component)
        set_bounding_boxes(node, x=0, y=top)
        top += node["absoluteBoundingBox"]["height"] + _SHEET_GAP_PX
        children.append(node)
    page: Node = {
        "id": f"0:{number}",
        "name": name,
        "type": "CANVAS",
        "scrollBehavior": "SCROLLS",
        "backgroundColor": {"r": 0.96, "g": 0.96, "b": 0.96, "a": 1},
        "prototypeStartNodeID": None,
        "flowStartingPoints": [],
        "prototypeDevice": {"type": "NONE", "rotation": "NONE"},
        "children": children,
    }
    for count, node in enumerate(_walk({"children": children}), start=1):
        node["id"] = f"{number}:{count}"
    return page


def _walk(node: Node) -> Iterator[Node]:
    for child in node.get("children", []):
        yield child
        yield from _walk(child)


def _hash(*parts: str) -> str:
    return hashlib.sha1("/".join(parts).encode(), usedforsecurity=False).hexdigest()


def _styles(palette: Palette, *, file_key: str) -> _Styles:
    used_as = [("fill", "FILL", name) for name in palette.colors]
    used_as += [("text", "TEXT", name) for name in palette.text_styles]
    used_as += [("effect", "EFFECT", name) for name in palette.shadows]
    ids, table = {}, {}
    for count, (kind, style_type, name) in enumerate(used_as, start=1):
        style_id = ids[kind, name] = f"9:{count}"
        if kind == "fill":
            ids["stroke", name] = style_id
        table[style_id] = {
            "key": _hash(file_key, kind, name),
            "name": name,
            "styleType": style_type,
            "remote": False,
            "description": "",
        }
    return _Styles(ids=ids, table=table)


def _catalog(document: Node, *, descriptions: Mapping[str, str], file_key: str) -> tuple[Node, Node]:
    """Return the ``components`` and ``componentSets`` tables of a document."""
    components: Node = {}
    sets: Node = {}
    set_id = None
    for node in _walk(document):
        entry = {
            "key": _hash(file_key, node["id"]),
            "name": node["name"],
            "description": descriptions.get(node["name"], ""),
            "remote": False,
            "documentationLinks": [],
        }
        if node["type"] == "COMPONENT_SET":
            sets[node["id"]] = entry
            set_id = node["id"]
        elif node["type"] == "COMPONENT":
            is_variant = "componentPropertyDefinitions" not in node
            components[node["id"]] = entry | ({"componentSetId": set_id} if is_variant else {})
    return components, sets


def main() -> None:
    """Write every sample file next to this module."""
    for file_key, name in FILES.items():
        text = render(file_key)
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(text) / 1024:.0f} kB")


if __name__ == "__main__":
    main()
