"""The runtime: results of generations, and their cache entries, records, metrics and traces."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.parser import text_string_to_metric_families

import forge_otel
from forge_otel import Call, Forge, GenerationRequest, GenerationResult, Record, Reply, Settings, agent, record_usage
from forge_otel.errors import BadRequest, ConfigurationError, GenerationTimeout
from forge_otel.outbox.delivery_worker import DeliveryWorker
from forge_otel.telemetry.providers import Telemetry
from forge_otel.types import CallNext


class ListSink:
    """A sink that keeps its records in a list."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.changed = asyncio.Condition()

    async def deliver(self, records: Sequence[Record], /) -> None:
        async with self.changed:
            self.records.extend(records)
            self.changed.notify_all()

    async def wait_for(self, count: int) -> list[Record]:
        """Wait until there are `count` records, and return them."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: len(self.records) >= count)
        return self.records


def _settings(folder: Path, **changes: Any) -> Settings:
    defaults = {"archive_url": None, "database_url": None, "outbox_dir": str(folder / "outbox")}
    return Settings(**defaults | changes)


def _telemetry(settings: Settings) -> Telemetry:
    """Telemetry with providers of its own."""
    tracers, meters = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
    return Telemetry(settings, tracer_provider=tracers, meter_provider=meters)


@pytest.fixture
def sink() -> ListSink:
    """Receives the records."""
    return ListSink()


@pytest.fixture
async def forge(tmp_path: Path, sink: ListSink) -> AsyncIterator[Forge]:
    """An open forge without archive and database."""
    settings = _settings(tmp_path)
    async with Forge(settings, sinks=[sink], telemetry=_telemetry(settings)) as opened:
        yield opened


def _request(**changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {"component_type": "button", "figma_key": "f"}
    return GenerationRequest(**fields | changes)


@agent("writer")
async def write() -> str:
    """An agent with one model call for $0.01."""
    record_usage(1000, 100, model="m", provider="p", cost_usd=Decimal("0.01"))
    return "code"


@forge_otel.generation
async def generate(request: GenerationRequest) -> GenerationResult:
    """A pipeline of one agent."""
    return GenerationResult(code=await write(), artifacts={"component.tsx": "code"}, metadata={"quality_score": 90})


async def test_the_second_answer_comes_from_the_cache(forge: Forge) -> None:
    """The second one saves the cost of the first."""
    first, second = await generate(_request()), await generate(_request())
    assert (first.source, first.cost_usd, first.saved_usd) == ("L4", Decimal("0.01"), Decimal(0))
    assert (second.source, second.cost_usd, second.saved_usd) == ("L1", Decimal(0), Decimal("0.01"))
    assert (second.code, second.artifacts, second.metadata) == (first.code, first.artifacts, first.metadata)
    assert first.generation_id != second.generation_id
    assert first.component_id == second.component_id


async def test_each_generation_is_recorded_once(forge: Forge, sink: ListSink) -> None:
    """With identity, source, costs, steps and miss reasons."""
    result = await generate(_request(user_id="ada", session_id="s"))
    (record,) = await sink.wait_for(1)
    assert (record.id, record.trace_id, record.outcome) == (result.generation_id, result.trace_id, "ok")
    assert (record.source, record.user_id, record.session_id, record.quality_score) == ("L4", "ada", "s", 90.0)
    assert [(cost.api, cost.agent, cost.amount_usd) for cost in record.costs] == [("p", "writer", Decimal("0.01"))]
    assert [step.name for step in record.steps] == ["writer"]
    assert record.misses == {"L1": "cold", "L2": "no_text", "L3": "no_pattern"}
    assert record.artifact_refs == {"component.tsx": f"components/{result.component_id}/component.tsx"}
    assert record.artifacts == {"component.tsx": "code"}


async def test_the_metrics_agree_with_the_records(forge: Forge, sink: ListSink) -> None:
    """The counters are the sums over the records."""
    for number in (1, 2, 1, 1):
        await generate(_request(tokens={"n": number}))
    records = await sink.wait_for(4)
    page, _ = await forge.telemetry.prometheus.render("", "")
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name in {"forge_genai_cost_usd_total", "forge_genai_cost_saved_usd_total"}
    }
    assert samples["forge_genai_cost_usd_total"] == pytest.approx(float(sum(record.cost_usd for record in records)))
    assert samples["forge_genai_cost_saved_usd_total"] == pytest.approx(
        float(sum(record.saved_usd for record in records))
    )


async def test_one_generation_is_one_tree(forge: Forge) -> None:
    """The span of the agent is a child of the generation's span."""
    result = await generate(_request())
    spans = {row.name: row for row in forge.telemetry.recent_traces.trace(result.trace_id)}
    assert set(spans) == {"invoke_workflow generate", "invoke_agent writer"}
    assert spans["invoke_agent writer"].parent_id == spans["invoke_workflow generate"].span_id


async def test_an_error_is_recorded_and_raised_unchanged(forge: Forge, sink: ListSink) -> None:
    """The caller gets the exception of the pipeline itself."""
    fault = ValueError("no such colour")

    @forge.generation
    async def fails(request: GenerationRequest) -> GenerationResult:
        raise fault

    with pytest.raises(ValueError, match="no such colour") as caught:
        await fails(_request())
    assert caught.value is fault
    (record,) = await sink.wait_for(1)
    assert (record.outcome, record.error_type, record.error_message) == ("error", "ValueError", "no such colour")
    assert (record.source, record.artifacts) == ("", {})


async def test_a_cancelled_generation_is_recorded_and_stays_cancelled(forge: Forge, sink: ListSink) -> None:
    """The task of a caller that leaves is cancelled."""
    begun = asyncio.Event()

    @forge.generation
    async def hangs(request: GenerationRequest) -> GenerationResult:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(hangs(_request()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = await sink.wait_for(1)
    assert (record.outcome, record.error_type) == ("cancelled", "CancelledError")


async def test_a_pipeline_that_exceeds_its_time_limit_is_cancelled(tmp_path: Path, sink: ListSink) -> None:
    """The record has the outcome `timeout`."""

    settings = _settings(tmp_path, generation_timeout_s=0.05)
    async with Forge(settings, sinks=[sink], telemetry=_telemetry(settings)) as forge:

        @forge.generation
        async def hangs(request: GenerationRequest) -> GenerationResult:
            await asyncio.Event().wait()
            raise AssertionError

        with pytest.raises(GenerationTimeout, match="did not finish within"):
            await hangs(_request())
        (record,) = await sink.wait_for(1)
    assert (record.outcome, record.error_type) == ("timeout", "GenerationTimeout")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"tokens": {"a": float("nan")}}, "NaN"), ({"component_type": "rocket"}, "use one of button, card")],
)
async def test_a_bad_request_leaves_nothing(
    tmp_path: Path, sink: ListSink, change: dict[str, Any], sentence: str
) -> None:
    """It is neither run nor stored nor recorded."""
    settings = _settings(tmp_path, component_types=("button", "card"))
    async with Forge(settings, sinks=[sink], telemetry=_telemetry(settings)) as forge:
        with pytest.raises(BadRequest, match=sentence):
            await generate(_request(**change))
        assert forge.outbox.stats().sinks["listsink"].produced == 0
    assert sink.records == []


async def test_without_an_open_forge_decorated_functions_run_alone() -> None:
    """They work in a script that never opens a forge."""
    result = await generate(_request())
    assert (result.code, result.generation_id, result.source) == ("code", "", "L4")


async def test_further_arguments_are_passed_through(forge: Forge) -> None:
    """They are not part of the cache key."""

    @forge.generation(name="named")
    async def adds(request: GenerationRequest, extra: str, *, more: str) -> GenerationResult:
        return GenerationResult(code=extra + more)

    assert (await adds(_request(), "a", more="b")).code == "ab"
    assert (await adds(_request(), "x", more="y")).code == "ab"


async def test_custom_layers_replace_the_default_ones(tmp_path: Path, sink: ListSink) -> None:
    """Tracing, recording and metrics stay around them."""

    class Canned:
        async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
            return Reply(result=GenerationResult(code="canned"), source="L2", cost_usd=Decimal("0.42"))

    settings = _settings(tmp_path)
    async with Forge(settings, layers=[Canned()], sinks=[sink], telemetry=_telemetry(settings)):
        result = await generate(_request())
        (record,) = await sink.wait_for(1)
    assert (result.source, result.saved_usd, record.source) == ("L2", Decimal("0.42"), "L2")


async def test_it_opens_once_and_closes_last(tmp_path: Path) -> None:
    """Entered twice, it stays open until the last exit, and can be opened again."""
    settings = _settings(tmp_path)
    forge = Forge(settings, sinks=[], telemetry=_telemetry(settings))
    for _ in range(2):
        async with forge:
            async with forge:
                assert forge.is_open
            assert forge.is_open
        assert not forge.is_open


async def test_a_generation_belongs_to_one_of_two_open_forges(tmp_path: Path, forge: Forge) -> None:
    """Its agents are traced by the same forge."""
    other = ListSink()
    settings = _settings(tmp_path / "other")
    async with Forge(settings, sinks=[other], telemetry=_telemetry(settings)) as second:
        outer = forge.generation(generate.__wrapped__)  # type: ignore[attr-defined]
        await outer(_request())
        assert len(forge.telemetry.recent_traces.latest()) == 1
        assert second.telemetry.recent_traces.latest() == []


def test_every_unknown_url_is_reported() -> None:
    """A forge that cannot be built lists every fault."""
    with pytest.raises(ConfigurationError) as caught:
        Forge(Settings(cache_url="memcached://h", archive_url="ftp://h", database_url="oracle://h"))
    assert len(caught.value.faults) == 3


async def test_records_survive_an_outage_of_the_sinks(tmp_path: Path) -> None:
    """The next process delivers the records that are left."""

    class Down:
        name = "listsink"

        async def deliver(self, records: Sequence[Record], /) -> None:
            raise ConnectionRefusedError

    settings = _settings(tmp_path, shutdown_timeout_s=0.5)
    async with Forge(settings, sinks=[Down()], telemetry=_telemetry(settings)):
        result = await generate(_request())
    later = ListSink()
    async with Forge(settings, sinks=[later], telemetry=_telemetry(settings)):
        (record,) = await later.wait_for(1)
    assert record.id == result.generation_id


async def test_a_changed_working_directory_changes_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are resolved when the forge is built."""
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    settings = Settings()
    async with Forge(settings, telemetry=_telemetry(settings)) as forge:
        monkeypatch.chdir(tmp_path)
        await generate(_request())
        assert await forge.outbox.drain(timeout_s=10)
        assert (await forge.operations.summary())["scope"] == "database"
    assert [path.name for path in tmp_path.iterdir()] == ["start"]
    assert {path.name for path in (tmp_path / "start" / ".forge").iterdir()} >= {"artifacts", "forge.db", "outbox"}


def test_an_unknown_critical_service_is_rejected(tmp_path: Path) -> None:
    """A typo would silently make the service optional; so would the name of a disabled part."""
    with pytest.raises(ConfigurationError) as caught:
        Forge(_settings(tmp_path, critical_services=("reddis", "archive", "figma")))
    assert ["'reddis'" in caught.value.faults[0], "'archive'" in caught.value.faults[1]] == [True, True]
    assert len(caught.value.faults) == 2


async def test_a_task_that_keeps_failing_is_counted_and_shown(tmp_path: Path, sink: ListSink) -> None:
    """`/health` warns with the type of the error, and the restarts are counted by task."""

    class PanicError(BaseException):
        """Stand-in for the PanicException of a Rust extension."""

    class Panicking(DeliveryWorker):
        def _is_done(self) -> bool:
            raise PanicError("x")

    settings = _settings(tmp_path)
    forge = Forge(settings, sinks=[sink], telemetry=_telemetry(settings))
    with patch("forge_otel.outbox.outbox.DeliveryWorker", Panicking):
        async with forge:
            async with asyncio.timeout(5):
                while "forge-outbox-listsink:task" not in forge.operations.health_report()["checks"]:
                    await asyncio.sleep(0.01)
            report = forge.operations.health_report()
    [check] = report["checks"]["forge-outbox-listsink:task"]
    assert (report["status"], check["status"]) == ("warn", "warn")
    assert "PanicError" in check["output"]


async def test_an_answer_without_the_journal_says_so_everywhere(forge: Forge, tmp_path: Path, sink: ListSink) -> None:
    """Answer, record, dashboard and health of a generation whose journal hangs agree."""
    await generate(_request())
    [path] = (tmp_path / "outbox").glob("*.journal")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    result = await generate(_request(component_type="card"))
    report, summary = forge.operations.health_report(), await forge.operations.summary()
    other.execute("ROLLBACK")
    other.close()

    assert result.degraded == ("outbox:memory",)
    assert report["status"] == "warn"
    assert report["checks"]["outbox:journal"][0]["status"] == "warn"
    assert (summary["outbox"]["durable"], summary["outbox"]["unjournaled"]) == (False, 1)
    first, second = await sink.wait_for(2)
    assert (first.degraded, second.degraded) == ((), ("outbox:memory",))
