"""Write ``component.tsx`` from a brief: imports, props, tokens, styles of every variant and markup."""

import re
from collections.abc import Iterable, Mapping

from componentforge.naming import slug
from componentforge.offline_llm.elements import Element, merged, walk
from componentforge.offline_llm.markup import Markup
from componentforge.offline_llm.tsx import comment, indented, literal, object_literal
from componentforge.schemas import ComponentBrief, Event, Prop
from componentforge.settings import OFFLINE_MODEL

__all__ = ["header", "write_component"]

_VARIABLE = re.compile(r"var\((--[a-z0-9-]+)\)")
_SIGNATURES = {"onChange": "(text: string) => void", "onNavigate": "(target: string) => void"}


def header(brief: ComponentBrief) -> list[str]:
    """Return the comment at the top of a file, which labels it as written by the offline model."""
    return [
        "/**",
        f" * {brief.component_name}, written by {OFFLINE_MODEL}: the offline stand-in of ComponentForge.",
        " * It fills templates by rules; no language model was involved.",
        " *",
        f" * Design: {comment(brief.blueprint.name)}. Pattern: {comment(brief.pattern.id)}.",
        " */",
    ]


def write_component(brief: ComponentBrief) -> str:
    """Return the component as TSX."""
    root = merged(brief.blueprint)
    markup = Markup(brief, root)
    jsx = markup.lines()
    lines = [
        *header(brief),
        'import type { CSSProperties } from "react";',
        *(['import { useId } from "react";'] if markup.ids else []),
        "",
        *_props_interface(brief),
        "",
        *_tokens(brief, root),
        "",
        *_base_styles(root),
        "",
        *_looks(brief, root),
        "",
        *_copies(brief, root),
        f"/** {comment(brief.pattern.description, max_chars=300)} */",
        *_signature(brief, markup),
        *indented([*_lookups(brief, root), *(f"const {name} = useId();" for name in markup.ids)]),
        "  return (",
        *indented(jsx, by=4),
        "  );",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _type_name(brief: ComponentBrief, prop: Prop) -> str:
    return f"{brief.component_name}{prop.name[0].upper()}{prop.name[1:]}"


def _props_interface(brief: ComponentBrief) -> list[str]:
    choices = [prop for prop in brief.requirements.props if prop.kind == "choice"]
    types = [
        f"export type {_type_name(brief, prop)} = {' | '.join(literal(option) for option in prop.options)};"
        for prop in choices
    ]
    members = [line for prop in brief.requirements.props for line in _member(brief, prop)]
    members += [line for event in brief.requirements.events for line in _callback(event)]
    return [*types, "", f"export interface {brief.component_name}Props {{", *indented(members), "}"]


def _member(brief: ComponentBrief, prop: Prop) -> list[str]:
    kinds = {"text": "string", "flag": "boolean", "choice": _type_name(brief, prop)}
    return [f"/** {comment(prop.description)} */", f"{prop.name}?: {kinds[prop.kind]};"]


def _callback(event: Event) -> list[str]:
    signature = _SIGNATURES.get(event.name, "() => void")
    return [f"/** {comment(event.description)} */", f"{event.name}?: {signature};"]


def _tokens(brief: ComponentBrief, root: Element) -> list[str]:
    """Return the object of the design tokens that the styles use, directly or through another token."""
    styles = [part.style for element in walk(root) for part in element.drawn if part]
    wanted = [name for style in styles for value in style.values() for name in _VARIABLE.findall(value)]
    used: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        if name in brief.css_variables and name not in used:
            used[name] = brief.css_variables[name]
            wanted += _VARIABLE.findall(used[name])
    ordered = {name: value for name, value in brief.css_variables.items() if name in used}
    return [
        "/** Design tokens as CSS custom properties. */",
        "const tokens = {",
        *indented([f"{literal(name)}: {literal(value)}," for name, value in ordered.items()]),
        "} as CSSProperties;",
    ]


def _base_styles(root: Element) -> list[str]:
    styles = [f"{element.key}: {object_literal(element.base_style)}," for element in walk(root)]
    return [
        "/** The default look of each part. */",
        "const base = {",
        *indented(styles),
        "} satisfies Record<string, CSSProperties>;",
        "",
        "type Part = keyof typeof base;",
    ]


def _axis_props(brief: ComponentBrief) -> list[Prop]:
    """Return the choice props that select a variant, in the order of the design's axes."""
    by_source = {prop.source: prop for prop in brief.requirements.props if prop.kind == "choice" and prop.source}
    return [by_source[axis] for axis in brief.blueprint.axes if axis in by_source]


def _variant_keys(brief: ComponentBrief) -> list[str]:
    """Return the key of each variant: the values of its choice props, joined by slashes."""
    keys = []
    for variant in brief.blueprint.variants:
        chosen = []
        for prop in _axis_props(brief):
            option = variant.options.get(prop.source or "", "")
            drawn = brief.blueprint.axes[prop.source or ""]
            index = drawn.index(option) if option in drawn else -1
            known = 0 <= index < len(prop.options)
            chosen.append(prop.options[index] if known else slug(option, fallback="option"))
        keys.append("/".join(chosen))
    return keys


def _looks(brief: ComponentBrief, root: Element) -> list[str]:
    lines = []
    for number, key in enumerate(_variant_keys(brief)):
        changes = {element.key: change for element in walk(root) if (change := element.change(number))}
        if changes:
            parts = [f"{name}: {object_literal(change)}," for name, change in changes.items()]
            lines += [f"{literal(key)}: {{", *indented(parts), "},"]
    return [
        "/** What each variant changes, by its choices in the order of the design. */",
        "const looks: Record<string, Partial<Record<Part, CSSProperties>>> = {",
        *indented(lines),
        "};",
    ]


def _own_copies(brief: ComponentBrief, root: Element) -> Mapping[str, Mapping[str, str]]:
    copies: dict[str, dict[str, str]] = {}
    for number, key in enumerate(_variant_keys(brief)):
        for element in walk(root):
            text = element.copy(number)
            if text is not None:
                copies.setdefault(key, {})[element.key] = text
    return copies


def _copies(brief: ComponentBrief, root: Element) -> list[str]:
    copies = _own_copies(brief, root)
    if not copies:
        return []
    return [
        "/** The texts that a variant shows unless a prop says otherwise. */",
        "const copies: Record<string, Partial<Record<Part, string>>> = {",
        *indented([f"{literal(key)}: {object_literal(texts)}," for key, texts in copies.items()]),
        "};",
        "",
    ]


def _signature(brief: ComponentBrief, markup: Markup) -> list[str]:
    arguments: Iterable[str] = (
        *(_argument(prop, has_own_copy=markup.has_own_copy(prop)) for prop in brief.requirements.props),
        *(f"{event.name}," for event in brief.requirements.events),
    )
    name = brief.component_name
    return [f"export function {name}({{", *indented(list(arguments)), f"}}: {name}Props) {{"]


def _argument(prop: Prop, *, has_own_copy: bool) -> str:
    if prop.default is None or has_own_copy:
        return f"{prop.name},"
    default = literal(prop.default) if isinstance(prop.default, str) else str(prop.default).lower()
    return f"{prop.name} = {default},"


def _lookups(brief: ComponentBrief, root: Element) -> list[str]:
    names = {prop.name for prop in brief.requirements.props}
    chosen = [
        f'disabled ? "disabled" : {prop.name}' if "disabled" in prop.options and "disabled" in names else prop.name
        for prop in _axis_props(brief)
    ]
    lines = [
        f'const variantKey = [{", ".join(chosen)}].join("/");',
        "const css = (part: Part): CSSProperties => ({ ...base[part], ...looks[variantKey]?.[part] });",
    ]
    if _own_copies(brief, root):
        lines.append("const copy = (part: Part): string | undefined => copies[variantKey]?.[part];")
    return lines
