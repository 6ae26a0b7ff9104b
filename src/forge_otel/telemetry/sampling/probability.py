"""OpenTelemetry's consistent probability sampling: services with the same rate keep the same traces.

The 56 random bits of a trace are the lowest of its id, or `rv` of the tracestate; a rate becomes the threshold that
they must reach. A kept trace has its threshold as `th` in the `ot` member of the W3C tracestate, by which downstream
services know that the trace is kept, and back ends by what factor it counts.
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
# Limit of the `ot` member by the specification.
_MAX_CHARS: Final = 256
# Limit of the W3C; the SDK logs a warning for each further member.
_MAX_MEMBERS: Final = 32


def threshold(rate: float) -> int:
    """Return the threshold that the randomness of a fraction `rate` (0-1) of all traces reaches."""
    return (1 << _BITS) - round(rate * (1 << _BITS))


def randomness(trace_id: int, state: TraceState | None) -> int:
    """Return the 56 random bits of a trace."""
    value = _members(state).get("rv", "") if state else ""
    return int(value, 16) if len(value) == _DIGITS and _HEX.fullmatch(value) else trace_id & ((1 << _BITS) - 1)


def is_kept_upstream(trace_id: int, state: TraceState | None) -> bool:
    """Return whether the calling service keeps the trace, by the threshold in its tracestate."""
    value = _members(state).get("th", "") if state else ""
    return bool(_HEX.fullmatch(value)) and randomness(trace_id, state) >= int(value.ljust(_DIGITS, "0"), 16)


def with_threshold(state: TraceState | None, reached: int | None) -> TraceState:
    """Return `state` with the threshold that a kept trace has reached; None removes it."""
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
