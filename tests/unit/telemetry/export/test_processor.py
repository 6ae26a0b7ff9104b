"""The exporting span processor: queue limit, slices of work, flush, shutdown and fork."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from tests.unit.telemetry.bridge import Bridge, bridge, eventually, fast_export

from forge_otel.telemetry.export.http import HttpTransport
from forge_otel.telemetry.export.otlp_body import encode, split
from forge_otel.telemetry.export.processor import ExportOptions, ExportProcessor
from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.export.spool import SpoolOptions
from forge_otel.telemetry.langsmith.exporter import LangSmithProcessor
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

COUNT = 100
SLICE = 16
PAUSE = 0


@dataclass
class Steps:
    """Records the work of an export thread: the number of spans of each step, and its pauses.

    Args:
        unreadable: name of a span whose encoding fails.
    """

    unreadable: str = ""
    steps: list[int] = field(default_factory=list)

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
        """Encode `spans`."""
        self.steps.append(len(spans))
        if any(span.name == self.unreadable for span in spans):
            raise ValueError(self.unreadable)
        return encode(spans)

    def pause(self, seconds: float) -> None:
        """Record a pause instead of sleeping."""
        assert seconds >= 0
        self.steps.append(PAUSE)


class SendsEverything(ExportProcessor):
    """Selects every span that ended."""

    recorded: Steps

    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        """Return `spans`."""
        self.recorded.steps += [len(spans)] if spans else []
        return spans


@contextmanager
def exported(steps: Steps, count: int) -> Iterator[LangSmithStandIn]:
    """Export `count` spans with numbers for names to a server, and yield it."""
    SendsEverything.recorded = steps
    with LangSmithStandIn() as server:
        transport = HttpTransport(f"{server.url}/otel/v1/traces", {"Content-Encoding": "gzip"})
        processor = SendsEverything(
            steps.encode, split, transport, options=ExportOptions(), max_batch_size=200, pause=steps.pause
        )
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(processor)
        for number in range(count):
            provider.get_tracer("test").start_span(str(number)).end()
        assert processor.force_flush(20_000)
        yield server
        provider.shutdown()


def arrived(server: LangSmithStandIn) -> Counter[str]:
    """Return the names of the accepted spans, and how often each arrived."""
    return Counter(span.name for span in server.spans)


def end_runs(there: Bridge, count: int) -> set[str]:
    """End root spans that become runs, and return their names."""
    for number in range(count):
        there.tracer.start_span(f"run {number}", attributes={"forge.span.kind": "agent"}).end()
    return {f"run {number}" for number in range(count)}


def test_the_export_thread_pauses_after_every_few_spans() -> None:
    """Selection and encoding never process more than 16 spans without a pause, and still send large bodies."""
    steps = Steps()
    with exported(steps, COUNT) as server:
        assert arrived(server) == {str(number): 1 for number in range(COUNT)}
        assert len(server.received) < COUNT / SLICE
    work = [0]
    for step in steps.steps:
        if step == PAUSE:
            work.append(0)
        else:
            work[-1] += step
    assert max(work) == SLICE


def test_a_span_that_cannot_be_encoded_costs_no_other() -> None:
    """The rest of its batch is sent."""
    with exported(Steps(unreadable="50"), COUNT) as server:
        assert arrived(server) == {str(number): 1 for number in range(COUNT) if number != 50}


@pytest.mark.parametrize("count", [SLICE, SLICE + 1, COUNT])
def test_a_body_of_several_slices_can_be_split(count: int) -> None:
    """It is one protobuf message."""
    with exported(Steps(), count) as server:
        bodies = [item.body for item in server.received]
    sizes = [
        sum(len(scope.spans) for item in request.resource_spans for scope in item.scope_spans)
        for body in bodies
        for part in split(body)
        for request in [ExportTraceServiceRequest.FromString(part)]
    ]
    assert sum(sizes) == count


def test_spans_above_the_queue_limit_are_counted_as_dropped() -> None:
    """Spans within the limit arrive once after the outage, and the counts add up during it."""
    with bridge(export=fast_export(max_queue_size=50)) as there:
        there.langsmith.fail(LangSmithFault())
        end_runs(there, 20)
        eventually(lambda: there.langsmith.outcomes["503"] > 3)
        end_runs(there, 200)
        assert there.is_balanced
        assert there.processor.stats().waiting == 50
        there.langsmith.recover()
        eventually(lambda: there.processor.stats().waiting < 50)
        there.processor.shutdown()
        stats = there.processor.stats()
        assert (stats.produced, stats.exported, dict(stats.dropped)) == (220, 50, {"queue_full": 170})
        assert len({span.span_id for span in there.langsmith.spans}) == len(there.langsmith.spans) == 50


def test_spans_reach_the_disk_while_a_request_hangs(tmp_path: Path) -> None:
    """Spooled spans free their room in the queue."""
    export = ExportOptions(spool=SpoolOptions(directory=tmp_path), max_queue_size=40)
    with bridge(export=export) as there:
        there.langsmith.fail(LangSmithFault(kind="hang"))
        for round_ in range(1, 6):
            end_runs(there, 30)
            eventually(lambda spooled=30 * round_: there.processor.stats().spooled == spooled)  # type: ignore[misc]
        assert there.langsmith.outcomes["hang"] == 1
        assert dict(there.processor.stats().dropped) == {}
        there.langsmith.recover()
        there.flush()
        assert len({span.span_id for span in there.langsmith.spans}) == 150


def test_shutdown_sends_waiting_spans() -> None:
    """Spans that ended a moment before, and spans whose parent has not ended, are sent."""
    with bridge(run_filter=lambda _span: True) as there:
        with there.tracer.start_as_current_span("parent"):
            names = end_runs(there, 20)
            there.processor.shutdown()
            assert arrived(there.langsmith) == Counter(names)
        assert len(there.langsmith.runs()) == 20


def test_shutdown_is_bounded() -> None:
    """A server that never responds costs the timeout; spans that are only in memory are counted as dropped."""
    export = ExportOptions(retry=RetryPolicy(attempt_timeout_s=60), shutdown_timeout_s=0.5)
    with bridge(export=export) as there:
        there.langsmith.fail(LangSmithFault(kind="hang"))
        end_runs(there, 30)
        eventually(lambda: there.langsmith.outcomes["hang"] == 1)
        started_s = time.monotonic()
        there.processor.shutdown()
        assert time.monotonic() - started_s < 1.5
        stats = there.processor.stats()
        assert (stats.produced, stats.waiting, dict(stats.dropped)) == (30, 0, {"shutdown": 30})
        there.langsmith.recover()


def test_spooled_spans_are_sent_by_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Shutdown during an outage is quick and keeps the spans on disk; the next exporter sends each once."""
    caplog.set_level("INFO")
    spool = SpoolOptions(directory=tmp_path)
    with bridge(export=fast_export(spool=spool)) as there:
        there.langsmith.fail(LangSmithFault())
        names = end_runs(there, 30)
        eventually(lambda: there.processor.stats().spooled == 30)
        there.processor.shutdown()
        stats = there.processor.stats()
        assert (stats.produced, stats.waiting, stats.spooled, dict(stats.dropped)) == (30, 30, 30, {})
        assert "30 spans wait on disk" in caplog.text
        there.langsmith.recover()
        successor = LangSmithProcessor(there.processor.options, export=ExportOptions(spool=spool))
        eventually(lambda: successor.stats().exported == 30)
        successor.shutdown()
        assert arrived(there.langsmith) == Counter(names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_exports_its_own_spans() -> None:
    """Spans that waited at the fork are sent by the parent only."""
    with bridge() as there:
        there.langsmith.fail(LangSmithFault())
        names = end_runs(there, 20)
        eventually(lambda: there.langsmith.outcomes["503"] > 0)
        child = os.fork()
        if child == 0:
            there.tracer.start_span("of the child", attributes={"forge.span.kind": "agent"}).end()
            sent = there.processor.force_flush(10_000) and there.processor.stats().exported == 1
            os._exit(0 if sent else 1)
        there.langsmith.recover()
        assert os.waitpid(child, 0)[1] == 0
        there.flush()
        assert arrived(there.langsmith) == Counter([*names, "of the child"])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_spool_files_to_its_parent(tmp_path: Path) -> None:
    """The child has a file of its own, and the parent's can be adopted while the child runs."""
    export = fast_export(spool=SpoolOptions(directory=tmp_path))
    with bridge(export=export, server=LangSmithStandIn(api_key="no")) as there:
        names = end_runs(there, 5)
        eventually(lambda: there.processor.stats().spooled == 5)
        ready, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            there.tracer.start_span("of the child", attributes={"forge.span.kind": "agent"}).end()
            eventually(lambda: there.processor.stats().spooled == 1)
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            os._exit(0 if there.processor.stats().produced == 1 else 1)
        os.read(ready[0], 1)
        assert len(list(tmp_path.glob("*.journal"))) == 2
        there.processor.shutdown()
        there.langsmith.api_key = "key"
        successor = LangSmithProcessor(there.processor.options, export=export)
        eventually(lambda: {span.name for span in there.langsmith.spans} >= names)
        successor.shutdown()
        os.write(done[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
