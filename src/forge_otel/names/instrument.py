"""Declaration of a metric instrument, and the bucket bounds of the histograms."""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["AGENT_S", "FAST_S", "HTTP_S", "LLM_S", "LONG_S", "TOKEN_COUNTS", "TOKEN_RATES", "Instrument"]

# Alert thresholds are bounds, so that quantiles at them are exact: 60 and 90 s are limits of a generation.
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
# The bounds that OpenTelemetry's GenAI conventions advise for model calls, and three for long ones.
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
# Powers of four, as OpenTelemetry's GenAI conventions advise.
TOKEN_COUNTS: Final = tuple(float(4**power) for power in range(14))

Kind = Literal["counter", "histogram", "up_down_counter", "observable_gauge", "observable_counter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """A metric instrument, as created on the meter; documentation, dashboards and alert rules are checked against it.

    Args:
        name: the OpenTelemetry name, without unit, `total` or `count`.
        unit: in UCUM, with annotations in braces.
        description: the help text on the metrics page.
        attributes: the attributes that a point may have.
        bounds: bucket bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
