"""The published workload of the demo: 120 generations, in order, some of them at the same moment.

The first 100 are a team's day, which hit rates are about; the rest is the next morning.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DAY", "PATH", "Design", "Edit", "Order", "Workload", "load_workload", "workload_of"]

PATH = Path(__file__).with_name("workload.json")
DAY = 100
"""Requests that the combined hit rate is of."""

TENANT = "acme"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A component of the sample files."""

    component_type: str
    figma_key: str
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request for a generation.

    Args:
        design: name of a design.
        theme: name of the design tokens that the caller sets.
        wish: name of the requirements that the caller adds.
    """

    design: str
    theme: str
    wish: str
    user: str
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A designer's change, between two groups of requests."""

    design: str
    text: str
    fill: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What happens, step by step: either an edit, or requests that are sent at the same moment."""

    designs: Mapping[str, Design]
    themes: Mapping[str, Mapping[str, Any]]
    wishes: Mapping[str, Mapping[str, Any]]
    steps: Sequence[Edit | tuple[Order, ...]]

    def orders(self) -> Iterator[Order]:
        """Yield all requests in order."""
        for step in self.steps:
            if not isinstance(step, Edit):
                yield from step

    def body(self, order: Order) -> dict[str, Any]:
        """Return the body of ``POST /generate`` for an order."""
        design = self.designs[order.design]
        return {
            "component_type": design.component_type,
            "figma_key": design.figma_key,
            "node_id": design.node_id,
            "tokens": self.themes[order.theme],
            "requirements": self.wishes[order.wish],
            "user_id": order.user,
            "session_id": order.session,
            "tenant": TENANT,
        }

    def questions(self) -> list[tuple[str, str, str, int]]:
        """Return what each request asks: design, theme, wish, and how often the design was edited before.

        Equal questions have equal answers, so the second one is a cache hit.
        """
        edits = dict.fromkeys(self.designs, 0)
        asked = []
        for step in self.steps:
            if isinstance(step, Edit):
                edits[step.design] += 1
            else:
                asked += [(order.design, order.theme, order.wish, edits[order.design]) for order in step]
        return asked


def load_workload(path: Path = PATH) -> Workload:
    """Read a workload file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no workload.
    """
    return workload_of(path.read_text(encoding="utf-8"), name=path.name)


def workload_of(text: str, *, name: str) -> Workload:
    """Read a workload.

    Args:
        text: JSON.
        name: of where it is from, for the error.

    Raises:
        ValueError: it is no workload.
    """
    data = json.loads(text)
    try:
        steps: list[Edit | tuple[Order, ...]] = [
            Edit(**step["edit"]) if "edit" in step else tuple(Order(**order) for order in step["generate"])
            for step in data["steps"]
        ]
        designs = {name: Design(**design) for name, design in data["designs"].items()}
        return Workload(designs=designs, themes=data["themes"], wishes=data["wishes"], steps=steps)
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{name} is no workload: {exc}") from exc
