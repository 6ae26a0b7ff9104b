"""The Protocols that applications and third parties implement: layers, sinks, stores, embedders and leases.

Optional abilities of an adapter are in `forge_otel.types.capabilities`.
"""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from forge_otel.types.data import Call, CallNext, Event, Lease, LeaseHeld, Neighbour, Point, Record, Reply

__all__ = ["Embedder", "Layer", "Leases", "Sink", "Store", "VectorStore", "WaitForChange"]

WaitForChange = Callable[[float], Coroutine[Any, Any, None]]
"""Returns at the next change of a key, or after the given number of seconds; may also return without a change."""


class Layer(Protocol):
    """Runs around a call, which it may answer, reject, retry or time."""

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call`, usually by awaiting `call_next(call)`."""
        ...


class Sink(Protocol):
    """Receives finished records after the call, which it can neither fail nor delay."""

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store all records or none; a record that was stored before changes nothing.

        Raises:
            Rejected: the sink will never accept the record; it becomes a dead letter.
            Exception: the sink is unavailable; delivery is retried.
        """
        ...


class Store(Protocol):
    """Key-value store of cache entries; values are opaque bytes."""

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys`, in their order, in one round trip."""
        ...

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        ...

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return the value that is stored now."""
        ...

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys and return how many existed."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def name(self) -> str:
        """Model, dimensions and version; only vectors of the same name are compared."""
        ...

    async def embed(self, texts: Sequence[str], /) -> list[Sequence[float]]:
        """Return the unit vector of each text."""
        ...


class VectorStore(Protocol):
    """Index of points; expired points are never found."""

    async def search(self, scope: str, vector: Sequence[float], *, limit: int) -> list[Neighbour]:
        """Return the points of `scope` that are nearest to `vector`, nearest first."""
        ...

    async def put(self, point: Point, /) -> None:
        """Store `point`, replacing a point of the same id."""
        ...

    async def remove(self, ids: Sequence[str], /) -> None:
        """Delete the points of these ids."""
        ...

    async def sweep(self) -> int:
        """Delete expired points and return how many there were, or 0 if the number is unknown."""
        ...


class Leases(Protocol):
    """Leases by which processes elect the one that generates.

    Args:
        writes_store: whether `commit` writes the entry that the cache's store reads; otherwise waiters `fetch` it.
        service: name of the guard around the calls.
    """

    writes_store: bool
    service: str

    async def acquire(self, key: str, token: str, *, ttl_s: float, waited_s: float) -> Lease | LeaseHeld:
        """Acquire the lease, unless another process holds it or a generation failed while the caller was waiting.

        Args:
            key: of the cache entry.
            token: identifies this holder.
            ttl_s: TTL of the lease in seconds.
            waited_s: seconds since the caller began to wait.
        """
        ...

    async def renew(self, lease: Lease, *, ttl_s: float) -> bool:
        """Extend the lease to `ttl_s` from now; return whether no higher fence was granted."""
        ...

    async def commit(self, lease: Lease, value: bytes, *, ttl_s: float | None) -> bool:
        """Write the value of the lease's key, atomically with the check that no higher fence was granted."""
        ...

    async def release(self, lease: Lease, *, failure: bytes | None = None) -> None:
        """Release the lease, leave `failure` for the waiters, and wake them."""
        ...

    async def fetch(self, key: str, *, within_s: float) -> bytes | None:
        """Return the value that was committed in the last `within_s` seconds; None where `writes_store` is set."""
        ...

    async def append(self, key: str, events: Sequence[Event]) -> None:
        """Publish progress events to followers of `key`; events of a lower fence than the newest are dropped."""
        ...

    async def events(self, key: str, after: tuple[int, int]) -> list[Event]:
        """Return up to some hundred events after that fence and number, in order."""
        ...

    def listen(self, key: str) -> AbstractContextManager[WaitForChange]:
        """Yield a function that waits for the next change of `key`."""
        ...
