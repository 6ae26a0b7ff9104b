"""Write the JSX of a component: an HTML element with attributes, texts and handlers for each layer."""

from collections.abc import Iterator

from componentforge.naming import slug
from componentforge.offline_llm.elements import Element, walk
from componentforge.offline_llm.roles import Role, role_of
from componentforge.offline_llm.tsx import indented, literal
from componentforge.schemas import ComponentBrief, Prop

__all__ = ["Markup"]

_IDS = {Role.HEADING: "titleId", Role.BODY: "bodyId", Role.HELPER: "helperId", Role.LABEL: "fieldId"}
_TAGS = {Role.HEADING: "h2", Role.BODY: "p", Role.LABEL: "label", Role.HELPER: "p", Role.TEXT: "span"}
_REFERENCES = {"aria-labelledby": Role.HEADING, "aria-describedby": Role.BODY}
_ROOT_EVENTS = {"onClick", "onChange", "onClose", "onNavigate"}


class Markup:
    """Writes the markup of one component and records the props that it used.

    Args:
        brief: the component.
        root: its merged layers.
    """

    def __init__(self, brief: ComponentBrief, root: Element) -> None:
        self.brief = brief
        self.root = root
        self.used: set[str] = set()
        self._props = {prop.name: prop for prop in brief.requirements.props}
        self._events = {event.name: event for event in brief.requirements.events}
        self._by_source = {(prop.kind, prop.source): prop for prop in brief.requirements.props}
        self._by_part = {event.part: event for event in brief.requirements.events if event.part is not None}
        # Ids must be unique, so only the first layer of a role gets the id.
        self._first: dict[Role, str] = {}
        for element in walk(root):
            if element is not root:
                self._first.setdefault(self._role(element), element.key)

    @property
    def ids(self) -> list[str]:
        """Names of the variables that hold element ids."""
        return [name for role, name in _IDS.items() if role in self._first]

    def lines(self) -> list[str]:
        """Return the markup of the whole component."""
        tag = self.brief.pattern.element
        children = [line for child in self.root.children for line in self._element(child)]
        children += list(self._extra_controls())
        attributes = [*self._root_attributes(), *self._unused_props(), 'style={{ ...tokens, ...css("root") }}']
        return [f"<{tag}", *indented(attributes), ">", *indented(children), f"</{tag}>"]

    def text_of(self, element: Element) -> str:
        """Return the expression for the text of a layer."""
        prop = self._text_prop(element)
        varies = any(element.copy(variant) is not None for variant in range(len(element.drawn)))
        fallback = literal(element.part.text or "")
        if prop is None:
            return f'copy("{element.key}") ?? {fallback}' if varies else fallback
        self.used.add(prop.name)
        return f'{prop.name} ?? copy("{element.key}") ?? {fallback}' if varies else prop.name

    def has_own_copy(self, prop: Prop) -> bool:
        """Return whether the default of a text prop depends on the variant."""
        return any(
            self._text_prop(element) is prop and element.copy(variant) is not None
            for element in walk(self.root)
            for variant in range(len(element.drawn))
        )

    def _text_prop(self, element: Element) -> Prop | None:
        source = element.part.text_property or element.part.name
        return self._by_source.get(("text", source)) if element.part.kind == "text" else None

    def _role(self, element: Element) -> Role:
        return role_of(element.part, self.brief.component_type)

    def _element(self, element: Element) -> list[str]:
        lines = self._visible(element)
        switch = self._by_source.get(("flag", element.part.shown_by)) if element.part.shown_by else None
        if switch is None:
            return lines
        self.used.add(switch.name)
        return [f"{{{switch.name} && (", *indented(lines), ")}"]

    def _visible(self, element: Element) -> list[str]:
        role = self._role(element)
        style = f'style={{css("{element.key}")}}'
        if role is Role.DECORATION:
            return [f'<span aria-hidden="true" {style} />']
        if role is Role.PLACEHOLDER:
            return self._input(element)
        if element.part.kind == "text":
            return self._text(element, role, style)
        inner = [line for child in element.children for line in self._element(child)]
        tag, attributes = self._box(element, role)
        return [f"<{' '.join([tag, *attributes, style])}>", *indented(inner), f"</{tag}>"]

    def _text(self, element: Element, role: Role, style: str) -> list[str]:
        tag, identity = _TAGS[role], ""
        if role in _IDS and self._first[role] == element.key:
            attribute = "htmlFor" if role is Role.LABEL else "id"
            identity = f"{attribute}={{{_IDS[role]}}} "
        elif role is Role.LABEL:
            tag = "span"
        return [f"<{tag} {identity}{style}>{{{self.text_of(element)}}}</{tag}>"]

    def _box(self, element: Element, role: Role) -> tuple[str, list[str]]:
        if role is Role.BUTTON:
            event = self._by_part.get(element.part.name)
            attributes = ['type="button"']
            if event:
                self.used.add(event.name)
                attributes.append(f"onClick={{{event.name}}}")
            if not any(below.part.text for below in walk(element)):
                attributes.append(f"aria-label={{{literal(_label(element.part.name))}}}")
            return "button", attributes
        if role is Role.LINK:
            return "a", list(self._link(slug(element.part.name, fallback="page")))
        inside_text = self.brief.pattern.element in {"button", "span"}
        return "span" if inside_text else "div", []

    def _link(self, target: str) -> Iterator[str]:
        yield f"href={{{literal('#' + target)}}}"
        current = self._props.get("current")
        if current and target in current.options:
            self.used.add("current")
            yield f'aria-current={{current === {literal(target)} ? "page" : undefined}}'
        if "onNavigate" in self._events:
            self.used.add("onNavigate")
            yield f"onClick={{() => onNavigate?.({literal(target)})}}"

    def _input(self, element: Element) -> list[str]:
        attributes = [f"placeholder={{{self.text_of(element)}}}"]
        if Role.LABEL in self._first:
            attributes.append("id={fieldId}")
        if Role.HELPER in self._first:
            attributes.append("aria-describedby={helperId}")
        state = next((prop for prop in self._props.values() if "error" in prop.options), None)
        if state:
            attributes.append(f'aria-invalid={{{state.name} === "error"}}')
        if "disabled" in self._props:
            self.used.add("disabled")
            attributes.append("disabled={disabled}")
        if "onChange" in self._events:
            self.used.add("onChange")
            attributes.append("onChange={(event) => onChange?.(event.target.value)}")
        attributes.append(
            f'style={{{{ ...css("{element.key}"), border: 0, outline: 0, background: "none", flex: 1 }}}}'
        )
        return ["<input", *indented(attributes), "/>"]

    def _root_attributes(self) -> Iterator[str]:
        for name, value in self.brief.pattern.attributes.items():
            role = _REFERENCES.get(name)
            if role is None:
                yield f"{name}={{{literal(value)}}}"
            elif role in self._first:
                yield f"{name}={{{_IDS[role]}}}"
        if self.brief.component_type == "button":
            yield from self._button_attributes()
        if "onClose" in self._events and self.brief.component_type == "modal":
            self.used.add("onClose")
            yield "tabIndex={-1}"
            yield 'onKeyDown={(event) => event.key === "Escape" && onClose?.()}'

    def _button_attributes(self) -> Iterator[str]:
        if "disabled" in self._props:
            self.used.add("disabled")
            yield "disabled={disabled}"
            yield "aria-disabled={disabled}"
        if "loading" in self._props:
            self.used.add("loading")
            yield "aria-busy={loading}"
        handlers = [event.name for event in self._events.values() if event.part is None]
        self.used.update(handlers)
        if handlers:
            calls = " ".join(f"{name}?.();" for name in handlers)
            yield f"onClick={{() => {{ {calls} }}}}"

    def _extra_controls(self) -> Iterator[str]:
        """Yield a button for each event that no layer fires."""
        for event in self._events.values():
            if event.name in self.used | _ROOT_EVENTS or self.brief.component_type == "button":
                continue
            self.used.add(event.name)
            label = _label(event.name.removeprefix("on"))
            yield f'<button type="button" aria-label={{{literal(label)}}} onClick={{{event.name}}}>'
            yield '  <span aria-hidden="true">{"\\u00d7"}</span>'
            yield "</button>"

    def _unused_props(self) -> Iterator[str]:
        """Yield a data attribute for each unused prop, so that style sheets can select by it."""
        for prop in self._props.values():
            if prop.name not in self.used:
                self.used.add(prop.name)
                yield f"data-{slug(prop.name, fallback='prop')}={{{prop.name}}}"


def _label(name: str) -> str:
    words = slug(name.replace("button", "").replace("Button", ""), fallback="action").replace("-", " ")
    return words[0].upper() + words[1:]
