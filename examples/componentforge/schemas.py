"""Data models of prompts and model answers, and how they are embedded in text.

A prompt contains its data as one JSON block between ``<context>`` tags; the offline model reads only that block.
Requirements are answered as one JSON object, code as one fenced block per file.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from componentforge.naming import is_valid_prop_name

__all__ = [
    "COMPONENT_TYPES",
    "AccessibilityRule",
    "Blueprint",
    "Brief",
    "ComponentBrief",
    "ComponentType",
    "Event",
    "Part",
    "PartKind",
    "Pattern",
    "Prop",
    "Requirements",
    "RequirementsBrief",
    "Variant",
    "context_block",
    "fenced_files",
    "read_context",
]

ComponentType = Literal["button", "card", "input", "modal", "badge", "navbar"]
COMPONENT_TYPES: tuple[ComponentType, ...] = ("button", "card", "input", "modal", "badge", "navbar")

PartKind = Literal["frame", "text", "shape"]

_CONTEXT = re.compile(r"<context>\n(.*?)\n</context>", re.DOTALL)
_FENCED_FILE = re.compile(r"^```tsx ([a-z]+\.tsx)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Model):
    """One layer of a design; `style` maps CSS properties to values that use design tokens (``var(--…)``)."""

    name: str
    kind: PartKind
    style: dict[str, str] = {}
    text: str | None = None
    text_property: str | None = None
    shown_by: str | None = None
    children: list["Part"] = []


class Variant(_Model):
    """One variant of a component: the option selected on each axis, and the layers."""

    options: dict[str, str] = {}
    root: Part


class Blueprint(_Model):
    """A design reduced to the data that code needs; the first variant and first option of each axis are defaults."""

    name: str
    axes: dict[str, list[str]] = {}
    variants: list[Variant] = Field(min_length=1)


class Pattern(_Model):
    """A known-good structure for one kind of component.

    Args:
        element: HTML element of the root.
        attributes: fixed attributes of the root, including ``aria-*`` and ``role``.
        props: props that such a component usually has.
        tags: search terms.
    """

    id: str
    component_type: ComponentType
    name: str
    description: str
    element: Literal["button", "article", "a", "div", "section", "span", "nav", "header"]
    attributes: dict[str, str] = {}
    props: list[str] = []
    tags: list[str] = []


def _check_name(name: str) -> None:
    if not is_valid_prop_name(name):
        raise ValueError(f"{name!r} cannot be a prop; use camelCase letters and digits, and no reserved word")


class Prop(_Model):
    """A prop of kind text, flag or choice.

    Args:
        source: the layer, boolean property or axis of the design that the prop controls, if any.
    """

    name: str
    kind: Literal["text", "flag", "choice"]
    default: str | bool | None = None
    options: list[str] = []
    source: str | None = None
    description: str = ""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Prop":
        _check_name(self.name)
        if self.kind == "choice" and (len(self.options) < 1 or self.default not in self.options):
            raise ValueError(f"the choice {self.name!r} needs options, and a default among them")
        if self.kind == "flag" and not isinstance(self.default, bool):
            raise ValueError(f"the flag {self.name!r} needs a default of true or false")
        if self.kind == "text" and isinstance(self.default, bool):
            raise ValueError(f"the text {self.name!r} needs a default that is a string, or none")
        return self


class Event(_Model):
    """A callback prop; `part` names the layer that fires it, None means the root."""

    name: str = Field(pattern=r"^on[A-Z]")
    part: str | None = None
    description: str = ""

    @model_validator(mode="after")
    def _name_is_valid(self) -> "Event":
        _check_name(self.name)
        return self


class AccessibilityRule(_Model):
    """An attribute or element that assistive technology requires.

    Args:
        needs: an ``aria-*`` attribute, ``role``, ``label`` or ``heading``.
        wcag: WCAG 2.2 success criterion, for example ``4.1.2``.
    """

    needs: str = Field(pattern=r"^(aria-[a-z]+|role|label|heading)$")
    reason: str
    wcag: str = Field(pattern=r"^\d\.\d{1,2}\.\d{1,2}$")


class Requirements(_Model):
    """Props, events, states and accessibility rules of a component."""

    props: list[Prop]
    events: list[Event]
    states: list[str]
    accessibility: list[AccessibilityRule] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Requirements":
        names = [prop.name for prop in self.props] + [event.name for event in self.events]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"these names are used more than once: {', '.join(repeated)}")
        return self


class RequirementsBrief(_Model):
    """Context of the Requirement Proposer; `requested` holds the caller's requirements, unchecked."""

    task: Literal["propose_requirements"] = "propose_requirements"
    component_type: ComponentType
    component_name: str
    blueprint: Blueprint
    requested: dict[str, Any] = {}


class ComponentBrief(_Model):
    """Context of the Code Generator; the code may use only the custom properties in `css_variables`."""

    task: Literal["write_component"] = "write_component"
    component_type: ComponentType
    component_name: str
    blueprint: Blueprint
    css_variables: dict[str, str]
    requirements: Requirements
    pattern: Pattern


Brief = RequirementsBrief | ComponentBrief
_BRIEF: TypeAdapter[Brief] = TypeAdapter(Annotated[Brief, Field(discriminator="task")])


def context_block(brief: Brief) -> str:
    """Return the brief as the context block of a prompt."""
    data = brief.model_dump(mode="json", exclude_defaults=True) | {"task": brief.task}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # Escaped, so that no text of a design can close the block or a code fence.
    return "<context>\n" + text.replace("<", "\\u003c").replace("`", "\\u0060") + "\n</context>"


def read_context(prompt: str) -> Brief | None:
    """Return the brief in a prompt's last context block, None if the block is missing or invalid."""
    blocks = _CONTEXT.findall(prompt)
    if not blocks:
        return None
    try:
        return _BRIEF.validate_json(blocks[-1])
    except ValidationError:
        return None


def fenced_files(answer: str) -> Mapping[str, str]:
    """Return the fenced ``tsx`` files of an answer as a mapping of name to content."""
    return dict(_FENCED_FILE.findall(answer))
