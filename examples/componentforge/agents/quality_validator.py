"""Quality Validator: checks generated code against its tokens and requirements with regular expressions.

The checks report only certain faults, since they do not parse the code. The score is 100 minus 15 per error, 5 per
warning and 1 per note.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from componentforge.agents.code_generator import GeneratedCode
from componentforge.schemas import ComponentBrief
from forge_otel import agent

__all__ = ["Finding", "Quality", "Severity", "check", "validate_quality"]

Severity = Literal["error", "warning", "note"]

_WEIGHTS: Mapping[Severity, int] = {"error": 15, "warning": 5, "note": 1}
_MAX_CODE_BYTES = 64 * 1024
_MAX_LISTED = 8

_VARIABLE = re.compile(r"var\((--[A-Za-z0-9-]+)")
_HEX_VALUE = re.compile(r':\s*"[^"\\]*#(?:[0-9a-fA-F]{8}|[0-9a-fA-F]{6}|[0-9a-fA-F]{3,4})\b')
_TOKENS_OBJECT = re.compile(r"^const tokens\b[^{]*\{.*?^\}", re.DOTALL | re.MULTILINE)
_INTERFACE = re.compile(r"^export (?:interface|type) \w+Props\b.*?^\}", re.DOTALL | re.MULTILINE)
_COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault found by a check."""

    check: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Score and findings of a component.

    Args:
        score: 0 to 100.
        used_tokens: number of the design's custom properties that the code uses.
        known_tokens: number of custom properties of the design.
    """

    score: int
    findings: tuple[Finding, ...]
    used_tokens: int
    known_tokens: int


@agent("quality_validator")
async def validate_quality(code: GeneratedCode, brief: ComponentBrief) -> Quality:
    """Return score and findings of a component and its stories."""
    return check(code, brief)


def check(code: GeneratedCode, brief: ComponentBrief) -> Quality:
    """Run every check and return the result."""
    findings = (
        *_export(code, brief),
        *_tokens(code, brief),
        *_colours(code),
        *_props(code, brief),
        *_accessibility(code, brief),
        *_stories(code, brief),
        *_size(code),
    )
    lost = sum(_WEIGHTS[finding.severity] for finding in findings)
    used = _used_variables(code.component, brief.css_variables)
    return Quality(
        score=max(100 - lost, 0),
        findings=findings,
        used_tokens=len(used & brief.css_variables.keys()),
        known_tokens=len(brief.css_variables),
    )


def _used_variables(code: str, css_variables: Mapping[str, str]) -> set[str]:
    """Return the custom properties used in styles, directly or through another custom property."""
    wanted, used = _VARIABLE.findall(_TOKENS_OBJECT.sub("", code)), set()
    while wanted:
        name = wanted.pop()
        if name not in used:
            used.add(name)
            wanted += _VARIABLE.findall(css_variables.get(name, ""))
    return used


def _export(code: GeneratedCode, brief: ComponentBrief) -> Iterator[Finding]:
    name = re.escape(brief.component_name)
    if not re.search(rf"^export (?:default )?(?:function|const) {name}\b", code.component, re.MULTILINE):
        message = f"component.tsx does not export {brief.component_name}."
        yield Finding(check="export", severity="error", message=message)
    if 'from "./component"' not in code.stories:
        message = "stories.tsx does not import the component."
        yield Finding(check="export", severity="error", message=message)


def _tokens(code: GeneratedCode, brief: ComponentBrief) -> Iterator[Finding]:
    used = _used_variables(code.component, brief.css_variables)
    unknown = sorted(used - brief.css_variables.keys())
    for name in unknown[:_MAX_LISTED]:
        yield Finding(check="tokens", severity="error", message=f"{name} is used, but is not a token of the design.")
    unused = [name for name in brief.css_variables if name not in used]
    if unused:
        listed = ", ".join(unused[:_MAX_LISTED]) + (", …" if len(unused) > _MAX_LISTED else "")
        yield Finding(check="tokens", severity="note", message=f"{len(unused)} tokens are not used: {listed}.")


def _colours(code: GeneratedCode) -> Iterator[Finding]:
    count = len(_HEX_VALUE.findall(_TOKENS_OBJECT.sub("", code.component)))
    if count:
        message = f"{count} colours are written into the code instead of coming from a token."
        yield Finding(check="colours", severity="warning", message=message)


def _props(code: GeneratedCode, brief: ComponentBrief) -> Iterator[Finding]:
    """Yield required props that the code lacks, or declares without using them."""
    bare = _COMMENT_OR_STRING.sub("", code.component)
    body = _INTERFACE.sub("", bare)
    names = [prop.name for prop in brief.requirements.props] + [event.name for event in brief.requirements.events]
    for name in names:
        word = re.compile(rf"\b{re.escape(name)}\b")
        if not word.search(bare):
            yield Finding(check="props", severity="error", message=f"The prop {name} is missing.")
        # One occurrence is the parameter list; `props.name` needs no parameter and counts as a use.
        elif len(word.findall(body)) < 2 and f"props.{name}" not in body:
            yield Finding(check="props", severity="warning", message=f"The prop {name} is declared, but never used.")


def _accessibility(code: GeneratedCode, brief: ComponentBrief) -> Iterator[Finding]:
    for rule in brief.requirements.accessibility:
        pattern = {"label": r"<label\b", "heading": r"<h[1-6]\b"}.get(rule.needs, rf"\b{re.escape(rule.needs)}=")
        if not re.search(pattern, code.component):
            message = f"{rule.needs} is missing. {rule.reason} (WCAG {rule.wcag})"
            yield Finding(check="accessibility", severity="error", message=message)


def _stories(code: GeneratedCode, brief: ComponentBrief) -> Iterator[Finding]:
    for prop in brief.requirements.props:
        missing = [option for option in prop.options if f'"{option}"' not in code.stories]
        if missing:
            message = f"No story shows {prop.name} as {', '.join(missing[:_MAX_LISTED])}."
            yield Finding(check="stories", severity="warning", message=message)


def _size(code: GeneratedCode) -> Iterator[Finding]:
    size_bytes = len(code.component.encode(errors="replace"))
    if size_bytes > _MAX_CODE_BYTES:
        message = (
            f"component.tsx has {size_bytes / 1024:.0f} kB; more than {_MAX_CODE_BYTES // 1024} kB is hard to read."
        )
        yield Finding(check="size", severity="warning", message=message)
