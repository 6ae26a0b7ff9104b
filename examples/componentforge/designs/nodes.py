"""Build nodes in the format of the Figma REST API; `layout` adds bounding boxes, `make` adds ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Node", "NodeBuilder", "Palette", "Shadow", "TextStyle", "rgba"]

Node = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStyle:
    """One text style of a file; `tracking_px` is the letter spacing."""

    weight: int
    size_px: float
    line_px: float
    tracking_px: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """One black drop shadow."""

    y_px: float
    blur_px: float
    opacity: float
    spread_px: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The named styles of one file."""

    family: str
    colors: Mapping[str, str]
    text_styles: Mapping[str, TextStyle]
    shadows: Mapping[str, tuple[Shadow, ...]]


def rgba(hex_color: str, *, opacity: float = 1.0) -> dict[str, float]:
    """Return ``#rrggbb`` as Figma's RGBA object with components from 0 to 1."""
    red, green, blue = (int(hex_color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return {"r": round(red, 6), "g": round(green, 6), "b": round(blue, 6), "a": opacity}


class NodeBuilder:
    """Builds nodes with the styles of one palette.

    Nodes refer to styles by name in their ``styles`` field; `make` replaces the names by style ids.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette

    def frame(
        self,
        name: str,
        *children: Node,
        layout: str = "HORIZONTAL",
        gap: float = 0,
        padding: tuple[float, float] = (0, 0),
        align: tuple[str, str] = ("MIN", "CENTER"),
        fill: str | None = None,
        stroke: str | None = None,
        stroke_px: float = 1,
        radius: float = 0,
        shadow: str | None = None,
        opacity: float = 1,
        width: float | None = None,
        height: float | None = None,
        stretch: bool = False,
        shown_by: str | None = None,
    ) -> Node:
        """Return an auto-layout frame.

        Args:
            padding: vertical and horizontal padding, in pixels.
            align: alignment along and across the layout direction.
            width, height: fixed size in pixels; None fits the content.
            stretch: fill the parent's width.
            shown_by: boolean component property that controls visibility.
        """
        node = self._layer(name, "FRAME", opacity=opacity, shown_by=shown_by)
        node |= {
            "clipsContent": radius > 0,
            "layoutMode": layout,
            "primaryAxisSizingMode": "FIXED" if (width if layout == "HORIZONTAL" else height) else "AUTO",
            "counterAxisSizingMode": "FIXED" if (height if layout == "HORIZONTAL" else width) else "AUTO",
            "primaryAxisAlignItems": align[0],
            "counterAxisAlignItems": align[1],
            "paddingTop": padding[0],
            "paddingBottom": padding[0],
            "paddingLeft": padding[1],
            "paddingRight": padding[1],
            "itemSpacing": gap,
            "layoutWrap": "NO_WRAP",
            "layoutSizingHorizontal": "FIXED" if width else "FILL" if stretch else "HUG",
            "layoutSizingVertical": "FIXED" if height else "HUG",
            "size": {"x": width or 0, "y": height or 0},
            "cornerRadius": radius,
        }
        node |= self._paint(fill=fill, stroke=stroke, stroke_px=stroke_px)
        node["effects"] = self._effects(shadow)
        if shadow:
            node["styles"]["effect"] = shadow
        node["children"] = list(children)
        return node

    def text(self, name: str, characters: str, *, style: str, color: str, prop: str | None = None) -> Node:
        """Return a text node; `prop` names the component property that sets its characters."""
        text_style = self._palette.text_styles[style]
        node = self._layer(name, "TEXT")
        node |= self._paint(fill=color, stroke=None, stroke_px=0)
        node["styles"]["text"] = style
        node |= {
            "effects": [],
            "layoutSizingHorizontal": "HUG",
            "layoutSizingVertical": "HUG",
            "characters": characters,
            "characterStyleOverrides": [],
            "styleOverrideTable": {},
            "lineTypes": ["NONE"] * (characters.count("\n") + 1),
            "lineIndentations": [0] * (characters.count("\n") + 1),
            "style": {
                "fontFamily": self._palette.family,
                "fontPostScriptName": None,
                "fontWeight": text_style.weight,
                "fontSize": text_style.size_px,
                "textAlignHorizontal": "LEFT",
                "textAlignVertical": "CENTER",
                "letterSpacing": text_style.tracking_px,
                "lineHeightPx": text_style.line_px,
                "lineHeightPercentFontSize": round(text_style.line_px / text_style.size_px * 100, 4),
                "lineHeightUnit": "PIXELS",
                "textAutoResize": "WIDTH_AND_HEIGHT",
            },
        }
        if prop:
            node["componentPropertyReferences"] = {"characters": prop}
        return node

    def shape(
        self,
        name: str,
        *,
        kind: str = "RECTANGLE",
        color: str,
        width: float,
        height: float,
        radius: float = 0,
        shown_by: str | None = None,
    ) -> Node:
        """Return a RECTANGLE, ELLIPSE or VECTOR node of a fixed size."""
        node = self._layer(name, kind, shown_by=shown_by)
        node |= self._paint(fill=color, stroke=None, stroke_px=0)
        node |= {
            "effects": [],
            "layoutSizingHorizontal": "FIXED",
            "layoutSizingVertical": "FIXED",
            "size": {"x": width, "y": height},
        }
        if kind == "ELLIPSE":
            node["arcData"] = {"startingAngle": 0, "endingAngle": 6.2831855, "innerRadius": 0}
        elif radius:
            node["cornerRadius"] = radius
        return node

    def icon(self, name: str, *, color: str, size_px: float = 16, shown_by: str | None = None) -> Node:
        """Return an icon, a square VECTOR node."""
        return self.shape(name, kind="VECTOR", color=color, width=size_px, height=size_px, shown_by=shown_by)

    def _layer(self, name: str, kind: str, *, opacity: float = 1, shown_by: str | None = None) -> Node:
        node: Node = {"id": "", "name": name, "type": kind, "scrollBehavior": "SCROLLS", "blendMode": "PASS_THROUGH"}
        if opacity != 1:
            node["opacity"] = opacity
        if shown_by:
            node["componentPropertyReferences"] = {"visible": shown_by}
        return node

    def _paint(self, *, fill: str | None, stroke: str | None, stroke_px: float) -> Node:
        painted: Node = {"fills": self._solid(fill), "strokes": self._solid(stroke), "styles": {}}
        if fill:
            painted["styles"]["fill"] = fill
        if stroke:
            painted["styles"]["stroke"] = stroke
            painted |= {"strokeWeight": stroke_px, "strokeAlign": "INSIDE"}
        return painted

    def _solid(self, name: str | None) -> list[Node]:
        if name is None:
            return []
        return [{"blendMode": "NORMAL", "type": "SOLID", "color": rgba(self._palette.colors[name])}]

    def _effects(self, name: str | None) -> list[Node]:
        shadows: Sequence[Shadow] = self._palette.shadows[name] if name else ()
        return [
            {
                "type": "DROP_SHADOW",
                "visible": True,
                "color": rgba("#000000", opacity=shadow.opacity),
                "blendMode": "NORMAL",
                "offset": {"x": 0, "y": shadow.y_px},
                "radius": shadow.blur_px,
                "spread": shadow.spread_px,
                "showShadowBehindNode": False,
            }
            for shadow in shadows
        ]
