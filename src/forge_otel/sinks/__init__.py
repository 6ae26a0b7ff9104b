"""Where finished records go: each module with an ``open_url`` is one sink, the rest is the outbox before them.

A sink stores what it is handed, all or none, and raises to be asked again later. What it can never store it refuses
with `Rejected`, so that one bad record does not hold up the others.
"""

from forge_otel.errors import ForgeError

__all__ = ["Rejected"]


class Rejected(ForgeError):
    """Raised by a sink: this record can never be stored, do not offer it again."""

    code = "rejected"
    title = "Record rejected"
    remedy = "Look at the record among the dead letters in the outbox's folder, and mend what made it."
