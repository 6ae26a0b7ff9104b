"""What a running generation tells those who follow it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["TERMINAL", "Progress"]

TERMINAL: Final = frozenset({"done", "failed"})
"""The kinds after which nothing comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something that happened in a running generation; holds no contents, only names and figures.

    Args:
        id: `<run>-<number>`, rising also from one run to the one that takes over from it.
        kind: `started`, `step_started`, `step_ended`, `model_call`, `truncated`, `done` or `failed`.
        at_s: seconds since the run began.
        facts: JSON-like: `name` and `step` of agents, tools and steps, `model` and tokens of model calls …
    """

    id: str
    kind: str
    at_s: float
    facts: Mapping[str, Any] = field(default_factory=dict)
