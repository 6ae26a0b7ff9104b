"""Registry of the design tokens of one design: one token per value and role, named after the role."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from componentforge.naming import slug
from componentforge.tokens import TokenTree, variable

__all__ = ["LayerRef", "TokenRegistry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRef:
    """The layer that uses a value.

    Args:
        part: name of the layer, None for the root.
        variant: options of its variant that differ from the default; empty in the default variant.
    """

    part: str | None = None
    variant: tuple[str, ...] = ()


class TokenRegistry:
    """Assigns tokens to values; the same value in the same role is the same token.

    A token is named after its role (``background``). If that name is taken, the layer is added
    (``background-footer``); outside the default variant, the variant is added (``background-hover``).

    Args:
        styles: id of each Figma style to its name.
    """

    def __init__(self, *, styles: Mapping[str, str]) -> None:
        self._styles = styles
        self._names: dict[tuple[str, str, str], str] = {}
        self.tree: TokenTree = {}

    def use(
        self, group: str, role: str, value: Any, *, kind: str, layer: LayerRef, style_id: str | None = None
    ) -> tuple[str, str]:
        """Return the path of the token for a value, registering it if it is new.

        Args:
            group: group of the token, for example ``"color"``.
            role: role of the value, for example ``"background"``.
            value: ``$value`` of the token.
            kind: ``$type`` of the token.
            layer: the layer that uses the value.
            style_id: Figma style applied to the layer; its name becomes the token's description.
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
        """Register a value like `use` and return the token as a CSS value, ``var(--…)``."""
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
