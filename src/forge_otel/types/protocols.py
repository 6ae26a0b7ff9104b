"""The Protocols that applications and third parties implement: layers, sinks, stores, embedders and leases.

Optional abilities of an adapter are in `forge_otel.types.capabilities`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from forge_otel.types.data import Call, CallNext, Event, Lease, LeaseHeld, Neighbour, Point, Record, Reply

__all__ = ["Embedder", "Layer", "Leases", "Sink", "Store", "VectorStore", "Wakeup"]


class Layer(Protocol):
    """Stands around a call: may answer, refuse, retry or time it."""

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call`, usually by awaiting `call_next(call)`."""
        ...


class Sink(Protocol):
    """Stands after a call: takes finished records, has no say, and can never fail or delay the call."""

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the records, all or none; a record seen before changes nothing. Raises to be asked again later."""
        ...


class Store(Protocol):
    """Where cache entries live; values are opaque bytes."""

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order, in one round trip."""
        ...

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        ...

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return what is stored now."""
        ...

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys; return how many there were."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def name(self) -> str:
        """The model and whatever else decides the vectors: only vectors of one name are compared."""
        ...

    async def embed(self, texts: Sequence[str], /) -> list[Sequence[float]]:
        """Return the vector of each text, of length 1."""
        ...


class VectorStore(Protocol):
    """Where points live; one whose life is over is never found."""

    async def search(self, scope: str, vector: Sequence[float], *, limit: int) -> list[Neighbour]:
        """Return the points of `scope` that are nearest to `vector`, nearest first."""
        ...

    async def put(self, point: Point, /) -> None:
        """Keep `point`, in place of one of the same id."""
        ...

    async def remove(self, ids: Sequence[str], /) -> None:
        """Forget the points of these ids."""
        ...

    async def sweep(self) -> int:
        """Forget the points whose life is over; return how many there were, or 0 where that is not known."""
        ...


class Wakeup(Protocol):
    """Rings when something happened to a key; may ring too often, and is only a help beside looking again."""

    async def wait(self, timeout_s: float, /) -> None:
        """Return when it rings, or after `timeout_s`."""
        ...


class Leases(Protocol):
    """Where processes agree on who generates.

    `is_store` says whether `commit` writes the cache's own entry; otherwise the value is handed over by `fetch`.
    `service` names what is asked, for guards; None where that is this machine.
    """

    is_store: bool
    service: str

    async def claim(self, key: str, token: str, *, life_s: float, waited_s: float) -> Lease | LeaseHeld:
        """Take the lease for `token` if nobody holds it and no generation failed in the last `waited_s`."""
        ...

    async def renew(self, lease: Lease, *, life_s: float) -> bool:
        """Make the lease last `life_s` from now; whether it still is the newest."""
        ...

    async def commit(self, lease: Lease, value: bytes, *, ttl_s: float | None) -> bool:
        """Write the value of the lease's key, in one step with the check that no higher fence was given."""
        ...

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Give the lease back, and tell those who wait."""
        ...

    async def fetch(self, key: str, *, within_s: float) -> bytes | None:
        """Return what was committed in the last `within_s`; None where the store has it anyway."""
        ...

    async def append(self, key: str, events: Sequence[Event]) -> None:
        """Add to what followers of `key` see; events of a lower fence than the newest are dropped."""
        ...

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return up to some hundred events after that fence and number, in order."""
        ...

    def listen(self, key: str) -> AbstractContextManager[Wakeup]:
        """Have a bell ring for `key` inside the block."""
        ...
