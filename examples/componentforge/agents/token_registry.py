"""Collects design tokens while a design is read: one token a value and use, named by what it is used for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from componentforge.naming import slug
from componentforge.tokens import TokenTree, variable

__all__ = ["LayerRef", "TokenRegistry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRef:
    """Where in a design a value is used.

    Args:
        part: the layer's name, None for the root.
        variant: the options of its variant that are not the default; empty in the default variant.
    """

    part: str | None = None
    variant: tuple[str, ...] = ()


class TokenRegistry:
    """Gives out tokens; a value seen before in the same role is the token it already is.

    A role's plain name (``background``) goes to the first use in the default variant, later uses add the layer's name,
    uses in another variant add the variant's: ``background-footer``, ``background-hover``.
    """

    def __init__(self, *, styles: Mapping[str, str]) -> None:
        self._styles = styles
        self._names: dict[tuple[str, str, str], str] = {}
        self.tree: TokenTree = {}

    def use(
        self, group: str, role: str, value: Any, *, kind: str, layer: LayerRef, style_id: str | None = None
    ) -> tuple[str, str]:
        """Return the path of the token for a value.

        Args:
            group: the token's group, for example ``"color"``.
            role: what the value does, for example ``"background"``.
            value: the token's ``$value``.
            kind: the token's ``$type``.
            style_id: the Figma style that the designer picked; its name becomes the description.
        """
        identity = (group, role, json.dumps(value, sort_keys=True))
        if identity not in self._names:
            name = self._free_name(group, role, layer)
            self._names[identity] = name
            token = {"$type": kind, "$value": value}
            if style_id is not None and style_id in self._styles:
                token["$description"] = f"Figma style {self._styles[style_id][:100]}"
            self.tree.setdefault(group, {})[name] = token
        return group, self._names[identity]

    def reference(self, *args: Any, **kwargs: Any) -> str:
        """Do the same as `use`, and return the token as a CSS value."""
        return f"var({variable(self.use(*args, **kwargs))})"

    def _free_name(self, group: str, role: str, layer: LayerRef) -> str:
        taken = self.tree.get(group, {})
        variant = [slug(option, fallback="other") for option in layer.variant]
        part = [slug(layer.part, fallback="part")] if layer.part is not None else []
        for words in ([role, *variant], [role, *part, *variant]):
            name = "-".join(words)
            if name not in taken:
                return name
        number = 2
        while f"{name}-{number}" in taken:
            number += 1
        return f"{name}-{number}"
