"""Merge the variants of a blueprint into one tree of elements with the differences of each variant."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from componentforge.naming import camel, unique
from componentforge.schemas import Blueprint, Part

__all__ = ["Element", "merged", "walk"]

_HIDDEN: Mapping[str, str] = {"display": "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One layer across all variants.

    Args:
        key: identifier in code.
        part: the layer in the first variant that has it.
        drawn: the layer in each variant, None if a variant lacks it.
        children: child elements.
    """

    key: str
    part: Part
    drawn: tuple[Part | None, ...]
    children: list["Element"] = field(default_factory=list)

    @property
    def base_style(self) -> Mapping[str, str]:
        """Style in the default variant; hidden if the default variant lacks the layer."""
        return self.drawn[0].style if self.drawn[0] else _HIDDEN

    def change(self, variant: int) -> Mapping[str, str]:
        """Return the style properties in which a variant differs from the base style."""
        part = self.drawn[variant]
        if part is None:
            return {} if self.drawn[0] is None else _HIDDEN
        wanted = dict(part.style)
        if self.drawn[0] is None:
            wanted.setdefault("display", "revert")
        dropped = {name: "unset" for name in self.base_style if name not in wanted}
        return {name: value for name, value in wanted.items() if self.base_style.get(name) != value} | dropped

    def copy(self, variant: int) -> str | None:
        """Return the text of a variant, None if it equals the default text."""
        part = self.drawn[variant]
        return part.text if part and part.text != self.part.text else None


def merged(blueprint: Blueprint) -> Element:
    """Return the root element; layers of two variants are one element if name and position agree."""
    return _merge("root", [variant.root for variant in blueprint.variants], taken={"root"})


def walk(element: Element) -> Iterator[Element]:
    """Yield an element and its descendants in document order."""
    yield element
    for child in element.children:
        yield from walk(child)


def _merge(key: str, drawn: Sequence[Part | None], *, taken: set[str]) -> Element:
    first = next(part for part in drawn if part is not None)
    element = Element(key=key, part=first, drawn=tuple(drawn))
    positions: dict[tuple[str, int], list[Part | None]] = {}
    for variant, part in enumerate(drawn):
        seen: dict[str, int] = {}
        for child in part.children if part else []:
            number = seen[child.name] = seen.get(child.name, 0) + 1
            positions.setdefault((child.name, number), [None] * len(drawn))[variant] = child
    for (name, _), parts in positions.items():
        child_key = unique(camel(name, fallback="part"), taken)
        element.children.append(_merge(child_key, parts, taken=taken))
    return element
