"""Assertions about trees of spans or of LangSmith's runs.

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
    """A span or run with its children.

    Args:
        name: name of the span or run.
        item: the span or run itself.
        is_error: True if it failed.
        children: by start time.
    """

    name: str
    item: Any = field(repr=False)
    is_error: bool = False
    children: list["TraceNode"] = field(default_factory=list)

    def find(self, name: str) -> "TraceNode":
        """Return the first node called `name` among this node and its descendants.

        Raises:
            AssertionError: there is none; the message contains the tree.
        """
        found = next((node for node in self.walk() if node.name == name), None)
        if found is None:
            raise AssertionError(f"no node is called {name!r} in\n{outline([self])}")
        return found

    def walk(self) -> Iterable["TraceNode"]:
        """Yield this node and its descendants, parents first."""
        yield self
        for node in self.children:
            yield from node.walk()


@dataclass(frozen=True, slots=True)
class _Facts:
    key: tuple[str, str]
    parent: tuple[str, str] | None
    start: tuple[int, str]
    node: TraceNode


def trace_trees(items: Iterable[Any]) -> list[TraceNode]:
    """Return the roots of the trees, by start time.

    Args:
        items: ended OpenTelemetry spans or `LangSmithRun` objects; an item whose parent is not among them is a root.
    """
    facts = sorted((_facts(item) for item in items), key=lambda one: one.start)
    by_key = {one.key: one.node for one in facts}
    roots: list[TraceNode] = []
    for one in facts:
        parent = None if one.parent is None else by_key.get(one.parent)
        (roots if parent is None else parent.children).append(one.node)
    return roots


def outline(nodes: Sequence[TraceNode], depth: int = 0) -> str:
    """Return one line for each node, indented by two spaces below its parent; ` !` marks a failed one."""
    lines = []
    for node in nodes:
        lines.append(f"{_INDENT * depth}{node.name}{' !' if node.is_error else ''}")
        if node.children:
            lines.append(outline(node.children, depth + 1))
    return "\n".join(lines)


def assert_trace(items: Iterable[Any], expected: str, *, in_order: bool = True) -> list[TraceNode]:
    """Compare trees with an outline and return their roots.

    Args:
        items: as in `trace_trees`.
        expected: an outline in the format of `outline`; common indentation is ignored.
        in_order: True to compare siblings by start time, False to ignore their order.

    Raises:
        AssertionError: the trees differ; the message contains the difference.
    """
    roots = trace_trees(items)
    wanted = textwrap.dedent(expected).strip("\n").rstrip()
    found = outline(roots if in_order else _sorted(roots))
    if not in_order:
        wanted = outline(_sorted(_read(wanted)))
    if found != wanted:
        lines = difflib.unified_diff(wanted.split("\n"), found.split("\n"), "expected", "found", lineterm="")
        raise AssertionError("\n".join(["the trace differs:", *lines]))
    return roots


def _facts(item: Any) -> _Facts:
    if not isinstance(item, ReadableSpan):
        parent = (item.trace_id, item.parent_id) if item.parent_id else None
        node = TraceNode(item.name, item, item.error is not None)
        return _Facts((item.trace_id, item.id), parent, (item.start_ns, item.order), node)
    context = item.get_span_context()
    if context is None:
        raise AssertionError(f"{item.name!r} has no context; pass ended spans")
    trace_id = format_trace_id(context.trace_id)
    parent = None if item.parent is None else (trace_id, format_span_id(item.parent.span_id))
    node = TraceNode(item.name, item, item.status.status_code is StatusCode.ERROR)
    # Two spans can have the same start time on a coarse clock.
    start = item.start_time or 0
    return _Facts((trace_id, format_span_id(context.span_id)), parent, (start, format_span_id(context.span_id)), node)


def _sorted(nodes: Iterable[TraceNode]) -> list[TraceNode]:
    copies = [TraceNode(node.name, node.item, node.is_error, _sorted(node.children)) for node in nodes]
    return sorted(copies, key=lambda node: outline([node]))


def _read(text: str) -> list[TraceNode]:
    """Return the nodes of an outline."""
    roots: list[TraceNode] = []
    ancestors: list[tuple[int, TraceNode]] = []
    for line in text.split("\n"):
        name = line.strip()
        indent = len(line) - len(line.lstrip())
        node = TraceNode(name.removesuffix(" !"), None, name.endswith(" !"))
        ancestors = [item for item in ancestors if item[0] < indent]
        (ancestors[-1][1].children if ancestors else roots).append(node)
        ancestors.append((indent, node))
    return roots
