"""What an instrument is, and the bounds of the buckets that ours have."""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["AGENT_S", "FAST_S", "HTTP_S", "LLM_S", "LONG_S", "TOKEN_COUNTS", "TOKEN_RATES", "Instrument"]

# Bounds hold the targets exactly, so that no alert interpolates: 60 and 90 s are generation limits.
LONG_S: Final = (
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    45.0,
    60.0,
    75.0,
    90.0,
    120.0,
    180.0,
    300.0,
)
HTTP_S: Final = (0.005, 0.01, 0.025, *LONG_S)
LLM_S: Final = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    120.0,
    163.84,
    300.0,
)
AGENT_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
FAST_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
TOKEN_RATES: Final = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0)
TOKEN_COUNTS: Final = tuple(float(4**power) for power in range(14))

Kind = Literal["counter", "histogram", "up_down_counter", "observable_gauge", "observable_counter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One instrument, from which the meter, the docs, the dashboards and the alert rules are made and checked.

    Args:
        name: the OpenTelemetry name; never holds a unit, `total` or `count`.
        unit: UCUM, annotations in braces.
        attributes: every attribute that a point may carry.
        bounds: bucket bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
