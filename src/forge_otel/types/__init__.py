"""The nouns: what is asked, what is answered, what is recorded, and the Protocols that others may implement.

Everything here is frozen. What changes while a generation runs lives in `forge_otel.context`.
"""

from forge_otel.types.calls import Call, CallNext, Reply, Shelf
from forge_otel.types.leases import Bell, Event, Held, Lease, Leases
from forge_otel.types.patterns import Adapted
from forge_otel.types.points import Neighbour, Point
from forge_otel.types.progress import TERMINAL, Progress
from forge_otel.types.protocols import Embedder, Layer, Sink, Store, VectorStore
from forge_otel.types.records import Cost, Record, Step, Usage, outcome_of
from forge_otel.types.requests import ZERO_USD, Artifact, GenerationRequest, GenerationResult

__all__ = [
    "TERMINAL",
    "ZERO_USD",
    "Adapted",
    "Artifact",
    "Bell",
    "Call",
    "CallNext",
    "Cost",
    "Embedder",
    "Event",
    "GenerationRequest",
    "GenerationResult",
    "Held",
    "Layer",
    "Lease",
    "Leases",
    "Neighbour",
    "Point",
    "Progress",
    "Record",
    "Reply",
    "Shelf",
    "Sink",
    "Step",
    "Store",
    "Usage",
    "VectorStore",
    "outcome_of",
]
