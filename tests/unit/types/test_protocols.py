"""A third party implements only the methods of a Protocol, and inherits from nothing."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from forge_otel import Call, Forge, GenerationRequest, GenerationResult, Record, Reply, Settings
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import CallNext

REQUEST = GenerationRequest(component_type="button", figma_key="f")


async def _pipeline() -> GenerationResult:
    return GenerationResult(code="code")


class TheirLayer:
    """A layer with its one method."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        self.calls += 1
        return await call_next(call)


class TheirSink:
    """A sink with its one method."""

    def __init__(self) -> None:
        self.delivered = asyncio.Event()

    async def deliver(self, records: Sequence[Record], /) -> None:
        self.delivered.set()


class TheirStore:
    """A store with the four methods, and no optional ability."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        self.values[key] = value

    async def add(self, key: str, value: bytes) -> bytes:
        return self.values.setdefault(key, value)

    async def delete(self, keys: Sequence[str], /) -> int:
        return sum(self.values.pop(key, None) is not None for key in keys)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """No server and no database."""
    return Settings(archive_url=None, database_url=None, outbox_dir=str(tmp_path / "outbox"))


async def test_a_layer_and_a_sink_need_one_method(settings: Settings) -> None:
    """The sink is named after its class."""
    layer, sink = TheirLayer(), TheirSink()
    async with Forge(settings, layers=[layer], sinks=[sink]) as forge:
        await forge.generate(REQUEST, _pipeline, pipeline="p")
        async with asyncio.timeout(10):
            await sink.delivered.wait()
        assert set(forge.outbox.stats().sinks) == {"theirsink", "recent"}
    assert layer.calls == 1


async def test_a_store_needs_no_ability() -> None:
    """Tag versions are created one by one, and answers are stored without hints for eviction."""
    exact = ExactCacheLayer(TheirStore(), ExactCacheOptions(secret=b"secret"), instruments=Instruments())
    call = Call(request=REQUEST, pipeline="p", key="k" * 64, component_id="c", run=_pipeline)

    async def call_next(call: Call) -> Reply:
        return Reply(result=await call.run())

    sources = [(await exact(call, call_next)).source for _ in range(2)]
    assert sources == ["L4", "L1"]
