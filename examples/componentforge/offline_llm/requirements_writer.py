"""Write requirements from a brief: props from texts, axes and switches, events from controls, rules by type."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from componentforge.naming import camel, is_valid_prop_name, pascal, slug, unique
from componentforge.offline_llm.roles import Role, parts_of, role_of
from componentforge.schemas import (
    AccessibilityRule,
    Blueprint,
    ComponentType,
    Event,
    Prop,
    Requirements,
    RequirementsBrief,
)

__all__ = ["write_requirements"]

_MAX_REQUESTED = 20
_NEGATED = re.compile(r"\b(no|not|never|without)\s+(?:an?\s+|any\s+)?$", re.IGNORECASE)
_WISHES = {"loading": "loading", "spinner": "loading", "selected": "selected", "dismiss": "dismissible"}
"""Word in the caller's free text to the state that it requests."""

_ROOT_EVENTS: dict[ComponentType, tuple[tuple[str, str], ...]] = {
    "button": (("onClick", "The button is pressed."),),
    "input": (("onChange", "The text changes; receives the new text."),),
    "modal": (("onClose", "The dialog asks to be closed, also by Escape."),),
    "navbar": (("onNavigate", "A link is followed; receives its name."),),
    "card": (),
    "badge": (),
}


def write_requirements(brief: RequirementsBrief) -> Requirements:
    """Return props, events, states and accessibility rules of a component."""
    taken: set[str] = set()
    wishes = _wished_states(brief.requested)
    props = [*_axis_props(brief.blueprint, taken), *_layer_props(brief, taken), *_type_props(brief, wishes, taken)]
    events = _events(brief, taken)
    states = list(dict.fromkeys(["default", *_drawn_states(brief.blueprint), *wishes]))
    return Requirements(props=props, events=events, states=states, accessibility=list(_rules(brief, wishes)))


def _strings(value: Any) -> list[str]:
    """Return the strings of a list, or a single string as a list; other values are ignored."""
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [item for item in values if isinstance(item, str)][:_MAX_REQUESTED]


def _wished_states(requested: dict[str, Any]) -> list[str]:
    """Return the states that the caller lists or mentions in free text."""
    states = [slug(state, fallback="custom") for state in _strings(requested.get("states"))]
    free = [value for name, value in requested.items() if name not in {"states", "events", "props"}]
    for text in (item for value in free for item in _strings(value)):
        states += [
            state
            for word, state in _WISHES.items()
            for match in re.finditer(word, text, re.IGNORECASE)
            if not _NEGATED.search(text[: match.start()])
        ]
    return list(dict.fromkeys(states))


def _axis_props(blueprint: Blueprint, taken: set[str]) -> Iterator[Prop]:
    for axis, options in blueprint.axes.items():
        used: set[str] = set()
        names = [unique(slug(option, fallback="option"), used) for option in options]
        yield Prop(
            name=unique(camel(axis, fallback="choice"), taken),
            kind="choice",
            options=names,
            default=names[0],
            source=axis,
            description="A variant of the design.",
        )


def _layer_props(brief: RequirementsBrief, taken: set[str]) -> Iterator[Prop]:
    texts: dict[str, str] = {}
    switches: dict[str, None] = {}
    for part in parts_of(brief.blueprint):
        if part.text is not None:
            texts.setdefault(part.text_property or part.name, part.text)
        if part.shown_by:
            switches.setdefault(part.shown_by)
    for source, text in texts.items():
        name = unique(camel(source, fallback="text"), taken)
        yield Prop(name=name, kind="text", default=text, source=source, description="A text of the design.")
    for source in switches:
        name = unique(camel(source, fallback="show"), taken)
        yield Prop(name=name, kind="flag", default=True, source=source, description="Shows an optional layer.")


def _type_props(brief: RequirementsBrief, wishes: Iterable[str], taken: set[str]) -> Iterator[Prop]:
    """Yield props without a layer: those of the component type, requested states and requested props."""
    if brief.component_type in {"button", "input"}:
        yield Prop(name=unique("disabled", taken), kind="flag", default=False, description="Disables the control.")
    links = _links(brief)
    if links:
        name = unique("current", taken)
        yield Prop(name=name, kind="choice", options=links, default=links[0], description="The page that is shown.")
    requested = [*wishes, *_strings(brief.requested.get("props"))]
    for wish in dict.fromkeys(camel(name, fallback="custom") for name in requested):
        if wish not in taken:
            taken.add(wish)
            yield Prop(name=wish, kind="flag", default=False, description="Requested by the caller.")


def _links(brief: RequirementsBrief) -> list[str]:
    names = [part.name for part in parts_of(brief.blueprint) if role_of(part, brief.component_type) is Role.LINK]
    return list(dict.fromkeys(slug(name, fallback="page") for name in names))


def _events(brief: RequirementsBrief, taken: set[str]) -> list[Event]:
    events = [Event(name=name, description=text) for name, text in _ROOT_EVENTS[brief.component_type]]
    taken.update(event.name for event in events)
    buttons = [part.name for part in parts_of(brief.blueprint) if role_of(part, brief.component_type) is Role.BUTTON]
    for part_name in dict.fromkeys(buttons):
        verb = re.sub(r"(?i)\bbutton\b", "", part_name[:200])
        name = f"on{pascal(verb, fallback='Action')}"
        if name not in taken:
            taken.add(name)
            events.append(Event(name=name, part=part_name, description="The control is pressed."))
    for event in _strings(brief.requested.get("events")):
        name = event if re.match("on[A-Z]", event) else f"on{pascal(event, fallback='Custom')}"
        if name not in taken and is_valid_prop_name(name):
            taken.add(name)
            events.append(Event(name=name, description="Requested by the caller."))
    return events


def _drawn_states(blueprint: Blueprint) -> list[str]:
    return [slug(option, fallback="state") for option in blueprint.axes.get("State", [])]


def _rules(brief: RequirementsBrief, wishes: Iterable[str]) -> Iterator[AccessibilityRule]:
    roles = {role_of(part, brief.component_type) for part in parts_of(brief.blueprint)}
    titled = Role.HEADING in roles
    invalid = "error" in _drawn_states(brief.blueprint)
    decorated = Role.DECORATION in roles
    facts: dict[ComponentType, tuple[tuple[bool, str, str, str], ...]] = {
        "button": (
            (True, "aria-disabled", "Announces that the button is disabled.", "4.1.2"),
            ("loading" in wishes, "aria-busy", "Announces that the action is running.", "4.1.3"),
        ),
        "card": ((titled, "heading", "Lets a reader jump from card to card.", "1.3.1"),),
        "input": (
            (Role.LABEL in roles, "label", "Names the field, also after typing.", "3.3.2"),
            (Role.HELPER in roles, "aria-describedby", "Announces the help with the field.", "1.3.1"),
            (invalid, "aria-invalid", "Announces that the text is invalid.", "3.3.1"),
        ),
        "modal": (
            (True, "role", "Identifies it as a dialog.", "4.1.2"),
            (True, "aria-modal", "Announces that the page behind is inert.", "4.1.2"),
            (titled, "aria-labelledby", "Names the dialog by its title.", "2.4.6"),
        ),
        "badge": ((True, "role", "Announces the text as a status or note.", "4.1.3"),),
        "navbar": (
            (True, "aria-label", "Distinguishes this navigation from others.", "2.4.1"),
            (Role.LINK in roles, "aria-current", "Marks the page that is shown.", "2.4.8"),
        ),
    }
    for applies, needs, reason, criterion in facts[brief.component_type]:
        if applies:
            yield AccessibilityRule(needs=needs, reason=reason, wcag=criterion)
    if decorated or not any(fact[0] for fact in facts[brief.component_type]):
        yield AccessibilityRule(needs="aria-hidden", reason="Hides decoration from screen readers.", wcag="1.1.1")
