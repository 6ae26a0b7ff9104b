"""Render ``quality-report.html``: a self-contained page in which every value is escaped."""

import re
from collections.abc import Iterable
from html import escape
from string import Template

from componentforge.agents.quality_validator import Quality
from componentforge.schemas import ComponentBrief
from componentforge.settings import OFFLINE_MODEL

__all__ = ["render_report"]

_COLOR = re.compile(r"#[0-9a-fA-F]{3,8}", re.ASCII)
_MAX_TEXT_CHARS = 200
_GOOD, _FAIR = 90, 70

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Quality report: $name</title>
<style>
:root { color-scheme: light dark; --ink: #0f172a; --soft: #475569; --line: #e2e8f0; --page: #f8fafc; --sheet: #fff;
  --good: #15803d; --fair: #b45309; --poor: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #f1f5f9; --soft: #a3b1c6; --line: #334155; --page: #0b1120;
  --sheet: #131c31; --good: #4ade80; --fair: #fbbf24; --poor: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
header { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: center; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
p { margin: .25rem 0; color: var(--soft); overflow-wrap: anywhere; }
.score { font-size: 2.6rem; font-weight: 700; line-height: 1; padding: 1rem 1.25rem; border: 2px solid;
  border-radius: 1rem; background: var(--sheet); }
.score small { font-size: .9rem; font-weight: 400; color: var(--soft); }
.good { color: var(--good); } .fair { color: var(--fair); } .poor { color: var(--poor); }
.label { border-left: 4px solid var(--fair); padding: .6rem 1rem; margin-top: 1.25rem; background: var(--sheet); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .75rem; background: var(--sheet); }
table { width: 100%; border-collapse: collapse; font-size: .95rem; }
caption { text-align: left; padding: .75rem 1rem 0; color: var(--soft); font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .6rem 1rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
tbody tr:last-child > * { border-bottom: 0; }
code { font: .9em ui-monospace, monospace; }
.swatch { display: inline-block; width: 1em; height: 1em; border-radius: .25em; border: 1px solid var(--soft);
  vertical-align: -.12em; margin-right: .4em; }
</style>
</head>
<body>
<main>
<header>
<div class="score $grade" role="img" aria-label="Score $score of 100">$score<small> / 100</small></div>
<div><h1>$name</h1><p>$design · $component_type · pattern $pattern</p></div>
</header>
$label
<section aria-labelledby="findings"><h2 id="findings">Findings</h2>$findings</section>
<section aria-labelledby="interface"><h2 id="interface">Interface</h2>$interface</section>
<section aria-labelledby="rules"><h2 id="rules">Accessibility rules</h2>$rules</section>
<section aria-labelledby="tokens"><h2 id="tokens">Design tokens</h2>$tokens</section>
</main>
</body>
</html>
""")


def render_report(quality: Quality, brief: ComponentBrief, *, model: str) -> str:
    """Return the page as HTML.

    Args:
        quality: score and findings.
        brief: the component's requirements, pattern and tokens.
        model: name of the model that wrote the code; the page labels the offline model.
    """
    grade = "good" if quality.score >= _GOOD else "fair" if quality.score >= _FAIR else "poor"
    return _PAGE.substitute(
        name=_text(brief.component_name),
        design=_text(brief.blueprint.name),
        component_type=_text(brief.component_type),
        pattern=_text(brief.pattern.id),
        score=quality.score,
        grade=grade,
        label=_label(model),
        findings=_findings(quality),
        interface=_interface(brief),
        rules=_rules(brief),
        tokens=_tokens(quality, brief),
    )


def _text(value: object) -> str:
    text = str(value)
    return escape(text if len(text) <= _MAX_TEXT_CHARS else text[:_MAX_TEXT_CHARS] + "…")


def _table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table; cells are HTML and must be escaped already."""
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    # WCAG 2.1.1: a scrollable region must be focusable, and a focusable region needs a name.
    region = f'<div class="wide" role="region" tabindex="0" aria-label="{_text(caption)}">'
    table = f"<table><caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"{region}{table}</div>"


def _label(model: str) -> str:
    if model != OFFLINE_MODEL:
        return f'<p class="label">The code was written by the model <code>{_text(model)}</code>.</p>'
    return (
        f'<p class="label"><strong>Offline model.</strong> The code was written by <code>{OFFLINE_MODEL}</code>, a '
        "stand-in that fills templates by rules. No language model was involved.</p>"
    )


def _findings(quality: Quality) -> str:
    if not quality.findings:
        return "<p>No findings. Every check passed.</p>"
    colors = {"error": "poor", "warning": "fair", "note": "good"}
    rows = (
        [
            f'<strong class="{colors[finding.severity]}">{finding.severity}</strong>',
            _text(finding.check),
            _text(finding.message),
        ]
        for finding in quality.findings
    )
    return _table("Findings of the checks", ("Severity", "Check", "Finding"), rows)


def _interface(brief: ComponentBrief) -> str:
    props = (
        [f"<code>{_text(prop.name)}</code>", _text(" | ".join(prop.options) or prop.kind), _text(prop.description)]
        for prop in brief.requirements.props
    )
    events = (
        [f"<code>{_text(event.name)}</code>", "event", _text(event.description)] for event in brief.requirements.events
    )
    return _table("Props and events", ("Name", "Kind", "Meaning"), [*props, *events])


def _rules(brief: ComponentBrief) -> str:
    rows = (
        [f"<code>{_text(rule.needs)}</code>", _text(rule.reason), _text(rule.wcag)]
        for rule in brief.requirements.accessibility
    )
    return _table("Requirements of assistive technology", ("Needs", "Reason", "WCAG"), rows)


def _tokens(quality: Quality, brief: ComponentBrief) -> str:
    rows = ([f"<code>{_text(name)}</code>", _value(value)] for name, value in brief.css_variables.items())
    caption = f"{quality.used_tokens} of {quality.known_tokens} custom properties are used"
    return _table(caption, ("Custom property", "Value"), rows)


def _value(value: str) -> str:
    # Only a validated hex colour may enter a style attribute.
    swatch = ""
    if _COLOR.fullmatch(value):
        swatch = f'<span class="swatch" style="background:{value}" aria-hidden="true"></span>'
    return f"{swatch}<code>{_text(value)}</code>"
