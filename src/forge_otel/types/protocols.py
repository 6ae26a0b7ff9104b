"""What others may implement."""

from collections.abc import Sequence
from typing import Protocol

from forge_otel.types.calls import Call, CallNext, Reply
from forge_otel.types.points import Neighbour, Point
from forge_otel.types.records import Record

__all__ = ["Embedder", "Layer", "Sink", "Store", "VectorStore"]


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
