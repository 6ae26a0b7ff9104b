"""Settings become adapters, typed by their abilities."""

from pathlib import Path

import pytest

from forge_otel._runtime import components
from forge_otel.errors import ConfigurationError
from forge_otel.leases.redis import RedisLeases
from forge_otel.leases.sqlite import SQLiteLeases
from forge_otel.settings import Settings
from forge_otel.stores.memory import MemoryStore
from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.store import RedisStore

REDIS = "redis://127.0.0.1:1/0"


def test_the_defaults_need_no_server() -> None:
    """Leases are in a file beside the outbox, and only local parts are pinged."""
    built = components.build(Settings())
    assert (built.store_service, built.vector_service, built.embedder_service) == (None, None, None)
    assert isinstance(built.leases, SQLiteLeases)
    assert set(built.pings) == {"archive", "database"}
    assert built.counters is built.store
    assert (built.sql, built.archive_retention) == (built.database, built.archive)


def test_redis_brings_its_leases_and_is_pinged() -> None:
    """Nothing is connected yet."""
    built = components.build(Settings(cache_url=REDIS))
    assert isinstance(built.leases, RedisLeases)
    assert built.pings["redis"] is built.store


def test_the_near_cache_wraps_a_single_redis() -> None:
    """The memory store needs none, and a Cluster is rejected."""
    near = {"cache_near_max_bytes": 10**6}
    assert isinstance(components.build(Settings(cache_url=REDIS, **near)).store, NearStore)
    assert isinstance(components.build(Settings(cache_url=REDIS)).store, RedisStore)
    assert isinstance(components.build(Settings(**near)).store, MemoryStore)
    with pytest.raises(ConfigurationError, match="a near cache needs one Redis server"):
        components.build(Settings(cache_url="redis+cluster://127.0.0.1:1", **near))


def test_disabled_parts_are_none() -> None:
    """They are neither sinks nor pinged."""
    off = Settings(archive_url=None, database_url=None, vector_url=None, outbox_dir=None, single_flight_lease_s=None)
    built = components.build(off)
    assert (built.archive, built.database, built.vectors, built.outbox_dir, built.leases) == (None,) * 5
    assert (built.sinks, dict(built.pings)) == ([], {})


def test_every_unknown_url_is_reported() -> None:
    """One error lists all of them."""
    with pytest.raises(ConfigurationError) as caught:
        components.build(Settings(cache_url="memcached://h", archive_url="ftp://h", database_url="oracle://h"))
    assert len(caught.value.faults) == 3


def test_an_unusable_url_is_reported_without_its_password() -> None:
    """Drivers repeat the URL in their messages, so only the type of the error is shown."""
    with pytest.raises(ConfigurationError) as caught:
        components.build(Settings(cache_url="redis://:hunter2@h:port/0"))
    assert "cache_url" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_outbox_directory_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service may change its working directory later; `memory` durability needs no directory."""
    monkeypatch.chdir(tmp_path)
    assert components.build(Settings(outbox_dir="./box")).outbox_dir == tmp_path / "box"
    assert components.build(Settings(outbox_dir="./box", outbox_durability="memory")).outbox_dir is None
