"""Which of our adapters have which optional abilities."""

from pathlib import Path
from typing import Any

import pytest

from forge_otel.embedders.hashing import HashingEmbedder
from forge_otel.embedders.openai import OpenAIEmbedder
from forge_otel.sinks.files.sink import FileArchive
from forge_otel.sinks.sql import SqlSink
from forge_otel.stores.memory import MemoryStore
from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.store import open_url
from forge_otel.types import capabilities
from forge_otel.vector_stores.in_process import VectorMatrix

ADAPTERS: dict[str, Any] = {
    "memory": MemoryStore,
    "redis": lambda: open_url("redis://127.0.0.1:1", max_bytes=0),
    "cluster": lambda: open_url("redis+cluster://127.0.0.1:1", max_bytes=0),
    "near": lambda: NearStore(ADAPTERS["redis"](), max_bytes=1),
    "vectors": VectorMatrix,
    "hashing": HashingEmbedder,
    "openai": lambda: OpenAIEmbedder(object()),  # type: ignore[arg-type]
    "file": lambda: FileArchive(Path("/nonexistent")),
    "sql": lambda: SqlSink("sqlite+aiosqlite:///nonexistent.db"),
}
ABILITIES = {
    "CostAware": {"memory"},
    "CountsExpired": {"file", "sql"},
    "GuardedEmbedder": {"openai"},
    "SqlDatabase": {"sql"},
    "SupportsBatchAdd": {"redis", "near"},
    "SupportsBulkLoad": {"sql"},
    "SupportsIncrement": {"memory", "redis", "cluster", "near"},
    "SupportsLeases": {"redis", "cluster", "near"},
    "SupportsNearReads": {"near"},
    "SupportsPing": {"memory", "redis", "cluster", "near", "vectors", "file", "sql"},
    "SupportsScan": {"memory", "redis", "cluster", "near"},
    "TracesCalls": {"openai"},
}


@pytest.mark.parametrize("ability", ABILITIES)
def test_an_ability_is_found_in_the_adapters_that_have_it(ability: str) -> None:
    """A renamed method would disable the ability without an error."""
    protocol = getattr(capabilities, ability)
    assert {name for name, build in ADAPTERS.items() if isinstance(build(), protocol)} == ABILITIES[ability]


def test_every_ability_is_covered() -> None:
    """A new one belongs in the table above; names of sinks are tested with the outbox."""
    assert set(capabilities.__all__) == {*ABILITIES, "NamedSink"}
