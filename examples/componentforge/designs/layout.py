"""A minimal auto-layout that computes the bounding boxes which Figma returns for every node."""

from componentforge.designs.nodes import Node

__all__ = ["set_bounding_boxes"]

_GLYPH_WIDTH_EM = 0.55
"""Mean advance width of a Latin letter in a sans-serif typeface; accurate enough for sample boxes."""


def set_bounding_boxes(node: Node, *, x: float = 0, y: float = 0) -> None:
    """Set ``absoluteBoundingBox`` and ``absoluteRenderBounds`` of a node and its descendants.

    Args:
        node: the root of a component.
        x, y: its top left corner, in pixels.
    """
    width, height = _measure(node)
    node.pop("size", None)
    box = {"x": x, "y": y, "width": width, "height": height}
    node["absoluteBoundingBox"] = box
    node["absoluteRenderBounds"] = dict(box)
    node["constraints"] = {"vertical": "TOP", "horizontal": "LEFT"}
    left, top = x + node.get("paddingLeft", 0), y + node.get("paddingTop", 0)
    for child in node.get("children", []):
        set_bounding_boxes(child, x=left, y=top)
        if node["layoutMode"] == "HORIZONTAL":
            left += child["absoluteBoundingBox"]["width"] + node["itemSpacing"]
        else:
            top += child["absoluteBoundingBox"]["height"] + node["itemSpacing"]


def _measure(node: Node) -> tuple[float, float]:
    if node["type"] == "TEXT":
        lines = node["characters"].split("\n")
        widest = max(len(line) for line in lines)
        width = round(widest * node["style"]["fontSize"] * _GLYPH_WIDTH_EM, 2)
        return width, len(lines) * node["style"]["lineHeightPx"]
    fixed = node.get("size", {"x": 0, "y": 0})
    if "children" not in node:
        return fixed["x"], fixed["y"]
    sizes = [_measure(child) for child in node["children"]]
    gaps = node["itemSpacing"] * max(len(sizes) - 1, 0)
    widths, heights = [size[0] for size in sizes] or [0.0], [size[1] for size in sizes] or [0.0]
    if node["layoutMode"] == "HORIZONTAL":
        width, height = sum(widths) + gaps, max(heights)
    else:
        width, height = max(widths), sum(heights) + gaps
    width += node["paddingLeft"] + node["paddingRight"]
    height += node["paddingTop"] + node["paddingBottom"]
    return fixed["x"] or round(width, 2), fixed["y"] or round(height, 2)
