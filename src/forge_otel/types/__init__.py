"""The nouns: what is asked, what is answered, what is recorded, and the Protocols that others may implement.

Everything here is frozen. What changes while a generation runs lives in `forge_otel.context`.
"""

from forge_otel.types.calls import CacheSlot, Call, CallNext, Reply
from forge_otel.types.leases import Event, Lease, LeaseHeld, Leases, Wakeup
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
    "CacheSlot",
    "Call",
    "CallNext",
    "Cost",
    "Embedder",
    "Event",
    "GenerationRequest",
    "GenerationResult",
    "Layer",
    "Lease",
    "LeaseHeld",
    "Leases",
    "Neighbour",
    "Point",
    "Progress",
    "Record",
    "Reply",
    "Sink",
    "Step",
    "Store",
    "Usage",
    "VectorStore",
    "Wakeup",
    "outcome_of",
]
