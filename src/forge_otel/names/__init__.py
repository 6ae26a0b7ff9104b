"""The catalog of span attributes and metric instruments; no other module spells their names.

The names of environment variables follow from the fields of `forge_otel.settings.Settings`.
"""

from typing import Final

from forge_otel.names.attributes import SCOPE, Attr, Operation
from forge_otel.names.deliveries import DeliveryMetrics
from forge_otel.names.generations import GenerationMetrics
from forge_otel.names.instrument import Instrument
from forge_otel.names.models import ModelMetrics
from forge_otel.names.services import ServiceMetrics
from forge_otel.names.serving import ServingMetrics

__all__ = ["CATALOG", "SCOPE", "Attr", "Instrument", "Metric", "Operation"]


class Metric(ServingMetrics, GenerationMetrics, ModelMetrics, ServiceMetrics, DeliveryMetrics):
    """The instruments by constant."""


CATALOG: Final[tuple[Instrument, ...]] = tuple(
    value for part in Metric.__bases__ for value in vars(part).values() if isinstance(value, Instrument)
)
"""The instruments in the order of their declaration."""
