"""Optional abilities of stores, sinks and embedders: one runtime-checkable Protocol each.

An adapter has an ability by defining its members; nothing is registered or inherited. Abilities are looked up once with
`isinstance`, when a part is built, never while a request is served.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from forge_otel.types.protocols import Leases

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "CostAware",
    "CountsExpired",
    "GuardedEmbedder",
    "NamedSink",
    "SqlDatabase",
    "SupportsBatchAdd",
    "SupportsBulkLoad",
    "SupportsIncrement",
    "SupportsLeases",
    "SupportsNearReads",
    "SupportsPing",
    "SupportsScan",
    "TracesCalls",
]


@runtime_checkable
class SupportsPing(Protocol):
    """Store, vector store or sink whose availability can be checked; the health report has a check for each."""

    async def ping(self) -> None:
        """Raise unless the service behind this part responds."""
        ...


@runtime_checkable
class SupportsIncrement(Protocol):
    """Store with atomic counters; budgets are counted in it across all workers, otherwise in each worker."""

    async def increment(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters and return their new values, in the order of `amounts`.

        Args:
            amounts: key to the number to add, which may be negative.
            ttl_s: TTL of each counter in seconds, renewed by every call.
        """
        ...


@runtime_checkable
class SupportsScan(Protocol):
    """Store whose keys can be iterated; purges count the entries that they invalidate."""

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, Sequence[str]]:
        """Return the next cursor, empty at the end, and some keys that begin with `prefix`."""
        ...


@runtime_checkable
class SupportsBatchAdd(Protocol):
    """Store on one server, where an operation on several keys is one round trip.

    Missing tag versions are created in batches, and concurrent reads are coalesced.
    """

    async def add_all(self, values: Mapping[str, bytes]) -> list[bytes]:
        """Store each value whose key is unset; return the values that are stored now, in the order of `values`."""
        ...


@runtime_checkable
class CostAware(Protocol):
    """Store with cost-aware eviction: of two entries of one size the one that was cheaper to make is evicted first."""

    async def set_with_cost(
        self, key: str, value: bytes, *, ttl_s: float | None, cost_usd: float, depends_on: Sequence[str]
    ) -> None:
        """Store `value` with hints for eviction.

        Args:
            key: where the value is stored.
            value: opaque bytes.
            ttl_s: TTL in seconds; None keeps the value until it is evicted.
            cost_usd: what it would cost to make the value again.
            depends_on: keys without which the value is useless; they are kept at least as long.
        """
        ...


@runtime_checkable
class SupportsNearReads(Protocol):
    """Store that keeps a coherent copy of what it fetched in this process; L1 hits are served from the copy."""

    def peek(self, keys: Sequence[str], /) -> list[Any] | None:
        """Return the local copies of `keys`, in their order; None unless all are present and current."""
        ...

    async def fetch(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` from the server, in one round trip, and keep a copy."""
        ...

    def replace(self, key: str, value: bytes, decoded: object, size_bytes: int) -> None:
        """Keep `decoded` in place of the copy of `value`, unless the key has changed since."""
        ...


@runtime_checkable
class SupportsLeases(Protocol):
    """Store that also holds the leases by which processes elect the one that generates."""

    def leases(self) -> Leases:
        """Return the leases on this store's entries; open and close them while the store is open."""
        ...


@runtime_checkable
class GuardedEmbedder(Protocol):
    """Embedder that calls a remote service."""

    @property
    def service(self) -> str:
        """Name of the guard around the calls."""
        ...


@runtime_checkable
class NamedSink(Protocol):
    """Sink with a name of its own; others are named after their class."""

    @property
    def name(self) -> str:
        """Name in the journal, in metrics and in logs."""
        ...


@runtime_checkable
class SupportsBulkLoad(Protocol):
    """Database sink whose backlog a separate process can write to PostgreSQL."""

    @property
    def batch_records(self) -> int:
        """Maximum number of records of one `deliver`."""
        ...

    @property
    def bulk_load_above(self) -> int | None:
        """Number of queued records above which the process is started; None never starts it."""
        ...

    def bulk_load_options(self) -> dict[str, Any] | None:
        """Return the connection options for the process; None where the database is not PostgreSQL."""
        ...


@runtime_checkable
class SqlDatabase(Protocol):
    """Database sink with SQL tables, which the dashboard and the reports query."""

    @property
    def damaged_files(self) -> Sequence[Path]:
        """Paths to which this process has renamed damaged SQLite files, newest last."""
        ...

    def analytics_engine(self) -> "AsyncEngine":
        """Return the engine to query with.

        Raises:
            NotOpen: the database has not been connected yet.
        """
        ...


@runtime_checkable
class CountsExpired(Protocol):
    """Sink with a retention period, which counts what it deletes."""

    @property
    def expired(self) -> Mapping[str, int]:
        """Kind (table name, or `files`) to the number of rows or files that this process has deleted."""
        ...


@runtime_checkable
class TracesCalls(Protocol):
    """Part with a span for each call that it pays for; the runtime replaces its tracer."""

    tracer: "Tracer"
    """Starts the spans."""
