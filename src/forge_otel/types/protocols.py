"""What others may implement."""

from collections.abc import Sequence
from typing import Protocol

from forge_otel.types.calls import Call, CallNext, Reply
from forge_otel.types.records import Record

__all__ = ["Layer", "Sink", "Store"]


class Layer(Protocol):
    """Stands around a call: may answer, refuse, retry or time it."""

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call`, usually by awaiting ``call_next(call)``."""
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
