"""Token Extractor: converts a Figma node into design tokens and a blueprint whose styles use them.

Solid fills and strokes, text styles, auto-layout spacing, fixed sizes, corner radii, shadows, borders and opacities
become tokens. Gradients, images, blurs and vector paths are ignored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from componentforge.agents.token_registry import LayerRef, TokenRegistry
from componentforge.schemas import Blueprint, Part, PartKind, Variant
from componentforge.tokens import TokenTree, merge, pixels, variable
from forge_otel import agent
from forge_otel.figma.nodes import FigmaNode

__all__ = ["Extraction", "extract", "extract_tokens"]

Json = Mapping[str, Any]

_ALIGN = {"MIN": "flex-start", "CENTER": "center", "MAX": "flex-end", "BASELINE": "baseline"}
_JUSTIFY = {**_ALIGN, "SPACE_BETWEEN": "space-between"}
_TEXT_CASE = {"UPPER": "uppercase", "LOWER": "lowercase", "TITLE": "capitalize"}
_DECORATION = {"UNDERLINE": "underline", "STRIKETHROUGH": "line-through"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Design tokens of a design, and its layers expressed with them."""

    tokens: TokenTree
    blueprint: Blueprint


@agent("token_extractor")
async def extract_tokens(node: FigmaNode, overrides: Json) -> Extraction:
    """Extract a design and merge the caller's tokens into its tokens.

    Raises:
        BadRequest: an override is not a valid design token.
    """
    extraction = extract(node)
    return Extraction(tokens=merge(extraction.tokens, overrides), blueprint=extraction.blueprint)


def extract(node: FigmaNode) -> Extraction:
    """Return tokens and blueprint of a design."""
    registry = TokenRegistry(styles=node.styles)
    document = node.document
    definitions = document.get("componentPropertyDefinitions", {})
    axes = {
        _property_name(name): list(definition.get("variantOptions", []))
        for name, definition in definitions.items()
        if definition["type"] == "VARIANT"
    }
    is_set = document["type"] == "COMPONENT_SET" and bool(document.get("children"))
    roots = document["children"] if is_set else [document]
    variants = []
    for root in roots:
        options = _options(root["name"]) if is_set else {}
        unusual = tuple(option for axis, option in options.items() if axes.get(axis, [None])[0] != option)
        part = _Reader(registry, variant=unusual).read(root, is_root=True)
        variants.append(Variant(options=options, root=part))
    return Extraction(
        tokens=registry.tree, blueprint=Blueprint(name=document["name"], axes=axes if is_set else {}, variants=variants)
    )


def _options(variant_name: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in variant_name.split(", "))
    return {axis.strip(): option.strip() for axis, _, option in pairs}


def _property_name(raw: str) -> str:
    """Return the name of a component property without Figma's id."""
    # Figma appends "#" and an id to every property except variant properties.
    return raw.partition("#")[0]


class _Reader:
    """Reads the layers of one variant."""

    def __init__(self, registry: TokenRegistry, *, variant: tuple[str, ...]) -> None:
        self._registry = registry
        self._variant = variant

    def read(self, node: Json, *, is_root: bool = False) -> Part:
        """Return a layer with its descendants."""
        layer = LayerRef(part=None if is_root else node["name"], variant=self._variant)
        references = node.get("componentPropertyReferences", {})
        kind: PartKind = "text" if node["type"] == "TEXT" else "frame" if "children" in node else "shape"
        return Part(
            name=node["name"],
            kind=kind,
            style=dict(self._style(node, kind, layer)),
            text=node.get("characters"),
            text_property=_property_name(references["characters"]) if "characters" in references else None,
            shown_by=_property_name(references["visible"]) if "visible" in references else None,
            children=[self.read(child) for child in node.get("children", []) if _is_drawn(child)],
        )

    def _style(self, node: Json, kind: PartKind, layer: LayerRef) -> Iterator[tuple[str, str]]:
        if kind == "text":
            yield from self._text(node, layer)
        elif kind == "frame":
            yield from self._flow(node, layer)
        yield from self._sizes(node, kind, layer)
        yield from self._surface(node, kind, layer)

    def _text(self, node: Json, layer: LayerRef) -> Iterator[tuple[str, str]]:
        style = node["style"]
        size = float(style.get("fontSize", 16))
        value = {
            "fontFamily": style.get("fontFamily", "sans-serif"),
            "fontSize": pixels(size),
            "fontWeight": style.get("fontWeight", 400),
            "lineHeight": pixels(style.get("lineHeightPx", size * 1.5)),
            "letterSpacing": pixels(style.get("letterSpacing", 0)),
        }
        path = self._registry.use(
            "typography", "text", value, kind="typography", layer=layer, style_id=node.get("styles", {}).get("text")
        )
        yield "font", f"var({variable(path)})"
        if value["letterSpacing"] != "0px":
            yield "letterSpacing", f"var({variable(path)}-tracking)"
        if style.get("textCase") in _TEXT_CASE:
            yield "textTransform", _TEXT_CASE[style["textCase"]]
        if style.get("textDecoration") in _DECORATION:
            yield "textDecoration", _DECORATION[style["textDecoration"]]
        if "\n" in node["characters"]:
            yield "whiteSpace", "pre-line"

    def _flow(self, node: Json, layer: LayerRef) -> Iterator[tuple[str, str]]:
        if node.get("layoutMode") not in {"HORIZONTAL", "VERTICAL"}:
            yield "position", "relative"
            return
        yield "display", "flex"
        yield "flexDirection", "row" if node["layoutMode"] == "HORIZONTAL" else "column"
        yield "justifyContent", _JUSTIFY[node.get("primaryAxisAlignItems", "MIN")]
        yield "alignItems", _ALIGN[node.get("counterAxisAlignItems", "MIN")]
        if node.get("itemSpacing", 0) > 0:
            yield "gap", self._length("spacing", "gap", node["itemSpacing"], layer)
        for name, role, start, end in (
            ("paddingBlock", "padding-block", "paddingTop", "paddingBottom"),
            ("paddingInline", "padding-inline", "paddingLeft", "paddingRight"),
        ):
            values = dict.fromkeys((node.get(start, 0), node.get(end, 0)))
            if any(values):
                yield name, " ".join(self._length("spacing", role, value, layer) for value in values)

    def _sizes(self, node: Json, kind: PartKind, layer: LayerRef) -> Iterator[tuple[str, str]]:
        box = node.get("absoluteBoundingBox") or {}
        for name, axis in (("width", "layoutSizingHorizontal"), ("height", "layoutSizingVertical")):
            if node.get(axis) == "FILL":
                yield name, "100%"
            elif name in box and (node.get(axis) == "FIXED" or kind == "shape"):
                yield name, self._length("size", name, box[name], layer)
        if node.get("layoutSizingHorizontal") == "FIXED" and kind == "frame":
            yield "maxWidth", "100%"
        yield "boxSizing", "border-box"

    def _surface(self, node: Json, kind: PartKind, layer: LayerRef) -> Iterator[tuple[str, str]]:
        styles = node.get("styles", {})
        fill = _solid(node.get("fills", []))
        if fill:
            name, role = ("color", "text") if kind == "text" else ("background", "background")
            role = "icon" if node["type"] == "VECTOR" else role
            yield (
                name,
                self._registry.reference("color", role, fill, kind="color", layer=layer, style_id=styles.get("fill")),
            )
        stroke = _solid(node.get("strokes", []))
        if stroke and node.get("strokeWeight", 1) > 0:
            yield "border", self._border(stroke, node, layer, style_id=styles.get("stroke"))
        if node["type"] == "ELLIPSE":
            yield "borderRadius", "50%"
        elif node.get("cornerRadius", 0) > 0:
            yield "borderRadius", self._length("radius", "corner", node["cornerRadius"], layer)
        shadows = [_shadow(effect) for effect in node.get("effects", []) if _is_shadow(effect)]
        if shadows:
            yield (
                "boxShadow",
                self._registry.reference(
                    "shadow", "elevation", shadows, kind="shadow", layer=layer, style_id=styles.get("effect")
                ),
            )
        if node.get("opacity", 1) < 1:
            opacity = round(node["opacity"], 3)
            yield "opacity", self._registry.reference("opacity", "layer", opacity, kind="number", layer=layer)

    def _border(self, stroke: str, node: Json, layer: LayerRef, *, style_id: str | None) -> str:
        group, name = self._registry.use("color", "border", stroke, kind="color", layer=layer, style_id=style_id)
        value = {
            "color": f"{{{group}.{name}}}",
            "width": pixels(node.get("strokeWeight", 1)),
            "style": "dashed" if node.get("strokeDashes") else "solid",
        }
        return self._registry.reference("border", "outline", value, kind="border", layer=layer)

    def _length(self, group: str, role: str, number: float, layer: LayerRef) -> str:
        return self._registry.reference(group, role, pixels(number), kind="dimension", layer=layer)


def _is_drawn(node: Json) -> bool:
    """Return whether a layer is visible, or can be made visible by a component property."""
    return bool(node.get("visible", True)) or "visible" in node.get("componentPropertyReferences", {})


def _is_shadow(effect: Json) -> bool:
    return effect["type"] == "DROP_SHADOW" and bool(effect.get("visible", True))


def _solid(paints: list[Json]) -> str | None:
    """Return the topmost visible solid paint as hex, None if there is none."""
    # Figma lists paints from bottom to top.
    for paint in reversed(paints):
        if paint["type"] == "SOLID" and paint.get("visible", True):
            return _hex(paint["color"], opacity=paint.get("opacity", 1))
    return None


def _hex(color: Mapping[str, float], *, opacity: float = 1) -> str:
    """Return ``#rrggbb``, or ``#rrggbbaa`` if the colour is not opaque."""
    channels = [color["r"], color["g"], color["b"]]
    alpha = color.get("a", 1) * opacity
    if alpha < 1:
        channels.append(alpha)
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in channels)


def _shadow(effect: Json) -> dict[str, str]:
    return {
        "color": _hex(effect["color"]),
        "offsetX": pixels(effect["offset"]["x"]),
        "offsetY": pixels(effect["offset"]["y"]),
        "blur": pixels(effect["radius"]),
        "spread": pixels(effect.get("spread", 0)),
    }
