"""What a layer is for, judged by its name and kind, as a reader of the design would."""

import re
from collections.abc import Iterator
from enum import StrEnum, auto

from componentforge.schemas import Blueprint, ComponentType, Part

__all__ = ["Role", "parts_of", "role_of"]


class Role(StrEnum):
    """What a layer becomes in code."""

    TEXT = auto()
    HEADING = auto()
    BODY = auto()
    LABEL = auto()
    FIELD = auto()
    PLACEHOLDER = auto()
    HELPER = auto()
    BUTTON = auto()
    LINK = auto()
    DECORATION = auto()
    BOX = auto()


_WORD = re.compile(r"[a-z]+")
_TEXTS = {"title": Role.HEADING, "heading": Role.HEADING, "body": Role.BODY, "summary": Role.BODY}
_FORM_TEXTS = {"label": Role.LABEL, "placeholder": Role.PLACEHOLDER, "helper": Role.HELPER, "hint": Role.HELPER}
_FRAMES = {"button": Role.BUTTON, "link": Role.LINK}


def role_of(part: Part, component_type: ComponentType) -> Role:
    """Tell what a layer below the root is for."""
    words = _WORD.findall(part.name[:200].lower())
    if part.kind == "shape":
        return Role.DECORATION
    if part.kind == "text":
        known = _FORM_TEXTS if component_type == "input" else _TEXTS
        return next((known[word] for word in words if word in known), Role.TEXT)
    if component_type == "input" and "field" in words:
        return Role.FIELD
    # A control inside a control is no valid HTML, so a button's layers stay boxes.
    if component_type == "button":
        return Role.BOX
    return next((_FRAMES[word] for word in words if word in _FRAMES), Role.BOX)


def parts_of(blueprint: Blueprint) -> Iterator[Part]:
    """Yield every layer below the roots, the default variant's first; a name comes again in each variant."""
    for variant in blueprint.variants:
        yield from _below(variant.root)


def _below(part: Part) -> Iterator[Part]:
    for child in part.children:
        yield child
        yield from _below(child)
