"""The published workload of the demo: 120 requests in order, some of them concurrent.

The first 100 are a team's working day, for which hit rates are reported; 20 repeated requests follow.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DAY", "PATH", "Design", "Edit", "Workload", "WorkloadRequest", "load_workload", "parse_workload"]

PATH = Path(__file__).with_name("workload.json")
DAY = 100
"""Number of requests that the combined hit rate covers."""

TENANT = "acme"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A component of the sample files."""

    component_type: str
    figma_key: str
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRequest:
    """One request for a generation.

    Args:
        design: name of a design.
        theme: name of a set of design tokens.
        wish: name of a set of requirements.
        user, session: identity of the caller.
    """

    design: str
    theme: str
    wish: str
    user: str
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A designer's change of a component: new text and new fill."""

    design: str
    text: str
    fill: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Designs, tokens, requirements and steps; a step is an edit or a group of concurrent requests."""

    designs: Mapping[str, Design]
    themes: Mapping[str, Mapping[str, Any]]
    wishes: Mapping[str, Mapping[str, Any]]
    steps: Sequence[Edit | tuple[WorkloadRequest, ...]]

    def requests(self) -> Iterator[WorkloadRequest]:
        """Yield all requests in request."""
        for step in self.steps:
            if not isinstance(step, Edit):
                yield from step

    def body(self, request: WorkloadRequest) -> dict[str, Any]:
        """Return the body of ``POST /generate`` for a request."""
        design = self.designs[request.design]
        return {
            "component_type": design.component_type,
            "figma_key": design.figma_key,
            "node_id": design.node_id,
            "tokens": self.themes[request.theme],
            "requirements": self.wishes[request.wish],
            "user_id": request.user,
            "session_id": request.session,
            "tenant": TENANT,
        }

    def identities(self) -> list[tuple[str, str, str, int]]:
        """Return for each request its design, theme, wish and the number of earlier edits of the design.

        Requests with equal identities have equal answers, so the second one is a cache hit.
        """
        edits = dict.fromkeys(self.designs, 0)
        found = []
        for step in self.steps:
            if isinstance(step, Edit):
                edits[step.design] += 1
            else:
                found += [(request.design, request.theme, request.wish, edits[request.design]) for request in step]
        return found


def load_workload(path: Path = PATH) -> Workload:
    """Read a workload from a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a valid workload.
    """
    return parse_workload(path.read_text(encoding="utf-8"), name=path.name)


def parse_workload(text: str, *, name: str) -> Workload:
    """Parse a workload.

    Args:
        text: JSON.
        name: of the source, for the error message.

    Raises:
        ValueError: the text is not a valid workload.
    """
    data = json.loads(text)
    try:
        steps: list[Edit | tuple[WorkloadRequest, ...]] = [
            Edit(**step["edit"])
            if "edit" in step
            else tuple(WorkloadRequest(**request) for request in step["generate"])
            for step in data["steps"]
        ]
        designs = {name: Design(**design) for name, design in data["designs"].items()}
        return Workload(designs=designs, themes=data["themes"], wishes=data["wishes"], steps=steps)
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{name} is not a valid workload: {exc}") from exc
