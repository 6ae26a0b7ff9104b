"""The nouns: what is asked, what is answered, what is recorded, and the Protocols that others may implement.

Everything here is frozen. What changes while a generation runs lives in `forge_otel.context`.
"""

from forge_otel.types.calls import Call, CallNext, Reply, Shelf
from forge_otel.types.leases import Bell, Event, Held, Lease, Leases
from forge_otel.types.progress import TERMINAL, Progress
from forge_otel.types.protocols import Layer, Sink, Store
from forge_otel.types.records import Cost, Record, Step, Usage, outcome_of
from forge_otel.types.requests import ZERO_USD, Artifact, GenerationRequest, GenerationResult

__all__ = [
    "TERMINAL",
    "ZERO_USD",
    "Artifact",
    "Bell",
    "Call",
    "CallNext",
    "Cost",
    "Event",
    "GenerationRequest",
    "GenerationResult",
    "Held",
    "Layer",
    "Lease",
    "Leases",
    "Progress",
    "Record",
    "Reply",
    "Shelf",
    "Sink",
    "Step",
    "Store",
    "Usage",
    "outcome_of",
]
