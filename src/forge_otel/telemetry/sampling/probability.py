"""OpenTelemetry's consistent probability sampling: services with the same rate keep the same traces.

A trace has 56 random bits, the lowest of its id, or `rv` where a sender says others; a rate is the threshold that
they must reach. A threshold that was reached is written as `th` below `ot` in the W3C tracestate, so that services
further down know that the trace is kept, and back ends by how much a trace counts.
Source: https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
"""

import re
from typing import Final

from opentelemetry.trace import TraceState

__all__ = ["is_kept_upstream", "randomness", "threshold", "with_threshold"]

_BITS: Final = 56
_DIGITS: Final = 14
_KEY: Final = "ot"
_HEX: Final = re.compile(r"[0-9a-f]{1,14}")
# A list of 256 characters at most, by the specification.
_MAX_CHARS: Final = 256
# Of the W3C; the SDK warns at each one more.
_MAX_MEMBERS: Final = 32


def threshold(rate: float) -> int:
    """Return what a trace's randomness must reach to be among the share `rate` of all traces."""
    return (1 << _BITS) - round(rate * (1 << _BITS))


def randomness(trace_id: int, state: TraceState | None) -> int:
    """Return the 56 random bits of a trace."""
    said = _members(state).get("rv", "") if state else ""
    return int(said, 16) if len(said) == _DIGITS and _HEX.fullmatch(said) else trace_id & ((1 << _BITS) - 1)


def is_kept_upstream(trace_id: int, state: TraceState | None) -> bool:
    """Tell whether `state` says of a trace that who sent it keeps it."""
    said = _members(state).get("th", "") if state else ""
    return bool(_HEX.fullmatch(said)) and randomness(trace_id, state) >= int(said.ljust(_DIGITS, "0"), 16)


def with_threshold(state: TraceState | None, reached: int | None) -> TraceState:
    """Return `state` with the threshold that the trace has reached, or without one."""
    found = _members(state)
    found.pop("th", None)
    if reached is not None:
        found["th"] = f"{reached:014x}".rstrip("0") or "0"
    text = ";".join(f"{name}:{value}" for name, value in found.items())
    others = state or TraceState()
    if not found or len(text) > _MAX_CHARS:
        return others.delete(_KEY) if _KEY in others else others
    if _KEY not in others and len(others) >= _MAX_MEMBERS:
        return others
    return others.update(_KEY, text)


def _members(state: TraceState | None) -> dict[str, str]:
    text = state.get(_KEY, "") if state is not None else ""
    return dict(part.split(":", 1) for part in text.split(";") if ":" in part)
