"""Assertions about trees of spans, or of LangSmith's runs.

::

    assert_trace(spans, '''
        POST /generate
          invoke_workflow generate
            invoke_agent writer
              chat gpt-4o
    ''')
"""

import difflib
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

__all__ = ["TraceNode", "assert_trace", "outline", "trace_trees"]

_INDENT: Final = "  "


@dataclass(slots=True)
class TraceNode:
    """A span or run, and what stands below it.

    Args:
        item: the span or run itself.
        is_error: whether it failed.
    """

    name: str
    item: Any = field(repr=False)
    is_error: bool = False
    below: list["TraceNode"] = field(default_factory=list)

    def find(self, name: str) -> "TraceNode":
        """Return the first node of that name, from here on down.

        Raises:
            AssertionError: there is none; the message shows what there is.
        """
        found = next((node for node in self.walk() if node.name == name), None)
        if found is None:
            raise AssertionError(f"there is no {name!r} in\n{outline([self])}")
        return found

    def walk(self) -> Iterable["TraceNode"]:
        """Yield this node and all below it, parents first."""
        yield self
        for node in self.below:
            yield from node.walk()


@dataclass(frozen=True, slots=True)
class _Facts:
    key: tuple[str, str]
    parent: tuple[str, str] | None
    start: tuple[int, str]
    node: TraceNode


def trace_trees(items: Iterable[Any]) -> list[TraceNode]:
    """Return the roots, each with what is below it, in the order of their start.

    Args:
        items: ended OpenTelemetry spans or `LangSmithRun` objects; an item whose parent is not among them is a root.
    """
    facts = sorted((_facts(item) for item in items), key=lambda one: one.start)
    by_key = {one.key: one.node for one in facts}
    roots: list[TraceNode] = []
    for one in facts:
        above = None if one.parent is None else by_key.get(one.parent)
        (roots if above is None else above.below).append(one.node)
    return roots


def outline(nodes: Sequence[TraceNode], depth: int = 0) -> str:
    """Return one line a node, indented by two spaces below its parent; what failed is marked with `!`."""
    lines = []
    for node in nodes:
        lines.append(f"{_INDENT * depth}{node.name}{' !' if node.is_error else ''}")
        if node.below:
            lines.append(outline(node.below, depth + 1))
    return "\n".join(lines)


def assert_trace(items: Iterable[Any], expected: str, *, in_order: bool = True) -> list[TraceNode]:
    """Fail with a difference where the trees are not as `expected`; return their roots.

    Args:
        items: as in `trace_trees`.
        expected: an outline, as `outline` writes it; where it begins does not matter.
        in_order: whether siblings have to be in the order of their start; without it they are sorted by name.

    Raises:
        AssertionError: they are not.
    """
    roots = trace_trees(items)
    wanted = textwrap.dedent(expected).strip("\n").rstrip()
    found = outline(roots if in_order else _sorted(roots))
    if not in_order:
        wanted = outline(_sorted(_read(wanted)))
    if found != wanted:
        lines = difflib.unified_diff(wanted.split("\n"), found.split("\n"), "expected", "found", lineterm="")
        raise AssertionError("\n".join(["the trace is another one:", *lines]))
    return roots


def _facts(item: Any) -> _Facts:
    if not isinstance(item, ReadableSpan):
        parent = (item.trace_id, item.parent_id) if item.parent_id else None
        node = TraceNode(item.name, item, item.error is not None)
        return _Facts((item.trace_id, item.id), parent, (item.start_ns, item.order), node)
    context = item.get_span_context()
    if context is None:
        raise AssertionError(f"{item.name!r} has no context; hand over ended spans")
    trace_id = format_trace_id(context.trace_id)
    parent = None if item.parent is None else (trace_id, format_span_id(item.parent.span_id))
    node = TraceNode(item.name, item, item.status.status_code is StatusCode.ERROR)
    # Two spans may start in the same nanosecond of a coarse clock.
    start = item.start_time or 0
    return _Facts((trace_id, format_span_id(context.span_id)), parent, (start, format_span_id(context.span_id)), node)


def _sorted(nodes: Iterable[TraceNode]) -> list[TraceNode]:
    copies = [TraceNode(node.name, node.item, node.is_error, _sorted(node.below)) for node in nodes]
    return sorted(copies, key=lambda node: outline([node]))


def _read(text: str) -> list[TraceNode]:
    """Return the nodes of an outline."""
    roots: list[TraceNode] = []
    above: list[tuple[int, TraceNode]] = []
    for line in text.split("\n"):
        name = line.strip()
        indent = len(line) - len(line.lstrip())
        node = TraceNode(name.removesuffix(" !"), None, name.endswith(" !"))
        above = [item for item in above if item[0] < indent]
        (above[-1][1].below if above else roots).append(node)
        above.append((indent, node))
    return roots
