"""Source format of sample files, and its conversion to COMPONENT and COMPONENT_SET nodes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from componentforge.designs.nodes import Node, Palette

__all__ = ["SampleComponent", "SampleFile", "component_node", "component_set_node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleComponent:
    """One component of a sample file.

    Args:
        name: type and name, for example ``Button/Action``.
        variants: Figma variant name (``Variant=Primary, State=Hover``) to root frame.
    """

    name: str
    variants: Mapping[str, Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFile:
    """One sample file: palette, and components by page."""

    name: str
    version: str
    last_modified: str
    palette: Palette
    pages: Mapping[str, Sequence[SampleComponent]]
    descriptions: Mapping[str, str]


def component_node(sample: SampleComponent) -> Node:
    """Return a component with a single variant as a COMPONENT node."""
    (root,) = sample.variants.values()
    return root | {
        "name": sample.name,
        "type": "COMPONENT",
        "componentPropertyDefinitions": _definitions(sample),
    }


def component_set_node(sample: SampleComponent) -> Node:
    """Return a component with several variants as a COMPONENT_SET node with one COMPONENT per variant."""
    variants = [root | {"name": name, "type": "COMPONENT"} for name, root in sample.variants.items()]
    return {
        "id": "",
        "name": sample.name,
        "type": "COMPONENT_SET",
        "scrollBehavior": "SCROLLS",
        "blendMode": "PASS_THROUGH",
        "clipsContent": True,
        "layoutMode": "VERTICAL",
        "primaryAxisSizingMode": "AUTO",
        "counterAxisSizingMode": "AUTO",
        "primaryAxisAlignItems": "MIN",
        "counterAxisAlignItems": "MIN",
        "paddingTop": 24,
        "paddingBottom": 24,
        "paddingLeft": 24,
        "paddingRight": 24,
        "itemSpacing": 24,
        "layoutSizingHorizontal": "HUG",
        "layoutSizingVertical": "HUG",
        "cornerRadius": 5,
        "fills": [],
        "strokes": [],
        "styles": {},
        "effects": [],
        "componentPropertyDefinitions": _definitions(sample),
        "children": variants,
    }


def _definitions(sample: SampleComponent) -> dict[str, Any]:
    """Return the component properties: text and boolean properties of the nodes, and the variant axes."""
    definitions: dict[str, Any] = {}
    for root in sample.variants.values():
        _collect_references(root, definitions)
    if len(sample.variants) > 1:
        definitions |= {
            name: {"type": "VARIANT", "defaultValue": values[0], "variantOptions": values}
            for name, values in _variant_options(sample.variants).items()
        }
    return definitions


def _collect_references(node: Node, definitions: dict[str, Any]) -> None:
    for field, name in node.get("componentPropertyReferences", {}).items():
        if field == "characters":
            definitions.setdefault(name, {"type": "TEXT", "defaultValue": node["characters"]})
        else:
            definitions.setdefault(name, {"type": "BOOLEAN", "defaultValue": True})
    for child in node.get("children", []):
        _collect_references(child, definitions)


def _variant_options(names: Iterable[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for variant in names:
        for pair in variant.split(", "):
            name, value = pair.split("=")
            if value not in options.setdefault(name, []):
                options[name].append(value)
    return options
