"""Infer the role of a layer (heading, button, link, …) from its name and kind."""

import re
from collections.abc import Iterator
from enum import StrEnum, auto

from componentforge.schemas import Blueprint, ComponentType, Part

__all__ = ["Role", "parts_of", "role_of"]


class Role(StrEnum):
    """Role of a layer in the generated code."""

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
    """Return the role of a layer below the root."""
    words = _WORD.findall(part.name[:200].lower())
    if part.kind == "shape":
        return Role.DECORATION
    if part.kind == "text":
        known = _FORM_TEXTS if component_type == "input" else _TEXTS
        return next((known[word] for word in words if word in known), Role.TEXT)
    if component_type == "input" and "field" in words:
        return Role.FIELD
    # HTML does not allow a button or link inside a button, so its layers stay boxes.
    if component_type == "button":
        return Role.BOX
    return next((_FRAMES[word] for word in words if word in _FRAMES), Role.BOX)


def parts_of(blueprint: Blueprint) -> Iterator[Part]:
    """Yield the layers below the root of every variant, the default variant first."""
    for variant in blueprint.variants:
        yield from _below(variant.root)


def _below(part: Part) -> Iterator[Part]:
    for child in part.children:
        yield child
        yield from _below(child)
