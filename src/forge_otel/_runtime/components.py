"""Settings → components: the adapters that the URLs name, not connected yet, and their optional abilities."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge_otel._runtime import plugins
from forge_otel.errors import ConfigurationError, MissingExtra
from forge_otel.leases.sqlite import SQLiteLeases
from forge_otel.settings import DEFAULT_DATABASE_URL, DEFAULT_VECTOR_URL, Settings, mask_url
from forge_otel.sinks.archive import Archive
from forge_otel.types import Embedder, Leases, Sink, Store, VectorStore
from forge_otel.types.capabilities import (
    CountsExpired,
    GuardedEmbedder,
    SqlDatabase,
    SupportsIncrement,
    SupportsLeases,
    SupportsPing,
)

__all__ = ["Components", "build"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The adapters of one runtime, typed by their optional abilities; None for a part that is disabled.

    Args:
        store: cache entries.
        store_service: name of the service behind the store; None for a store in this process.
        counters: the store, if it has atomic counters.
        vectors: points of the semantic cache.
        vector_service: name of the service behind `vectors`; None for an index in this process.
        embedder: turns texts into vectors.
        embedder_service: name of the guard around the embedder; None for an embedder in this process.
        archive: the sink that stores artifacts.
        archive_retention: the archive, if it counts expired files.
        database: the sink that stores records as rows.
        database_retention: the database, if it counts expired rows.
        sql: the database, if reports can query it.
        outbox_dir: folder of the journal; None keeps queued records in memory.
        leases: elect the process that generates; None where each process generates independently.
        pings: service name to the part whose availability is checked.
    """

    store: Store
    store_service: str | None
    counters: SupportsIncrement | None
    vectors: VectorStore | None
    vector_service: str | None
    embedder: Embedder | None
    embedder_service: str | None
    archive: Archive | None
    archive_retention: CountsExpired | None
    database: Sink | None
    database_retention: CountsExpired | None
    sql: SqlDatabase | None
    outbox_dir: Path | None
    leases: Leases | None
    pings: Mapping[str, SupportsPing]

    @property
    def sinks(self) -> list[Sink]:
        """The sinks that records are delivered to."""
        return [sink for sink in (self.archive, self.database) if sink is not None]


def build(settings: Settings) -> Components:
    """Load the adapter of each URL; nothing is connected yet.

    Raises:
        ConfigurationError: lists every URL without an adapter and every missing package.
    """
    faults: list[str] = []

    def attempt(name: str, open_part: Callable[[], Any]) -> Any:
        try:
            return open_part()
        except ConfigurationError as exc:
            faults.extend(exc.faults)
        except (ValueError, TypeError) as exc:
            # Only the type: a driver's message about a URL may repeat its password.
            faults.append(f"{name} {mask_url(getattr(settings, name))!r} cannot be used: {type(exc).__name__}")
        return None

    store = attempt("cache_url", lambda: _open_store(settings))
    vectors = attempt("vector_url", lambda: _open_vectors(settings.vector_url))
    embedder = attempt("embedder_url", lambda: _open("embedders", settings.embedder_url))
    archive = attempt("archive_url", lambda: _open_archive(settings))
    database = attempt("database_url", lambda: _open_database(settings))
    if faults:
        raise ConfigurationError(faults)
    store_service = None if settings.cache_url.startswith("memory:") else "redis"
    vector_service = "qdrant" if (settings.vector_url or "").startswith("qdrant:") else None
    reachable = {store_service: store, vector_service: vectors, "archive": archive, "database": database}
    return Components(
        store=store,
        store_service=store_service,
        counters=store if isinstance(store, SupportsIncrement) else None,
        vectors=vectors,
        vector_service=vector_service,
        embedder=embedder,
        embedder_service=embedder.service if isinstance(embedder, GuardedEmbedder) else None,
        archive=archive,
        archive_retention=archive if isinstance(archive, CountsExpired) else None,
        database=database,
        database_retention=database if isinstance(database, CountsExpired) else None,
        sql=database if isinstance(database, SqlDatabase) else None,
        outbox_dir=_outbox_dir(settings),
        leases=None if settings.single_flight_lease_s is None else _leases(settings, store),
        pings={name: part for name, part in reachable.items() if name is not None and isinstance(part, SupportsPing)},
    )


def _leases(settings: Settings, store: Store) -> Leases | None:
    if isinstance(store, SupportsLeases):
        return store.leases()
    # Without a shared store, the workers of one host share the folder of the outbox.
    folder = _outbox_dir(settings)
    return None if folder is None else SQLiteLeases(folder.with_name("flights.db"))


def _outbox_dir(settings: Settings) -> Path | None:
    if settings.outbox_dir is None or settings.outbox_durability == "memory":
        return None
    return Path(settings.outbox_dir).absolute()


def _open(room: str, url: str | None, **options: Any) -> Any:
    return None if url is None else plugins.load(room, url)(url, **options)


def _open_archive(settings: Settings) -> Archive | None:
    url = settings.archive_url
    # Objects in a bucket expire by its lifecycle rules, which `forge-otel archive prepare` creates.
    is_folder = url is not None and url.startswith("file:")
    archive: Archive | None = _open("sinks", url, **({"retention_days": settings.retention_days} if is_folder else {}))
    return archive


def _open_store(settings: Settings) -> Store:
    store: Store = _open("stores", settings.cache_url, max_bytes=settings.cache_max_bytes)
    max_bytes = settings.cache_near_max_bytes
    if max_bytes is None or settings.cache_url.startswith("memory:"):
        # A store in this process needs no near cache.
        return store
    # Imported on use, because the client of Redis is an optional package.
    from forge_otel.stores.near.store import NearStore
    from forge_otel.stores.redis.store import RedisStore

    if not isinstance(store, RedisStore):
        raise ConfigurationError(
            ["cache_near_max_bytes is set, but a near cache needs one Redis server or Sentinels; leave it out"]
        )
    return NearStore(store, max_bytes=max_bytes, max_stale_s=settings.cache_near_max_stale_s)


def _open_vectors(url: str | None) -> VectorStore | None:
    try:
        vectors: VectorStore | None = _open("vector_stores", url)
        return vectors
    except MissingExtra as exc:
        if url != DEFAULT_VECTOR_URL:
            raise
        # Only the default URL was used, so a bare install runs without it instead of failing.
        _logger.warning("semantic cache (L2) disabled: %s", exc.faults[0])
        return None


def _open_database(settings: Settings) -> Sink | None:
    url = settings.database_url
    try:
        options = {"retention_days": settings.retention_days, "bulk_load_above": settings.database_drain_above}
        database: Sink | None = _open("sinks", url, **options)
        return database
    except MissingExtra as exc:
        if url != DEFAULT_DATABASE_URL:
            raise
        # As above: a bare install runs without a database.
        _logger.warning("database disabled, generations are not recorded in it: %s", exc.faults[0])
        return None
