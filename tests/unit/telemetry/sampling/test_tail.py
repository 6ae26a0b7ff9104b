"""Tests of tail sampling: the kept traces, the counts, the limits, and metrics that do not depend on it."""

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode, TraceState
from tests.unit.telemetry.bridge import bridge, eventually
from tests.unit.telemetry.recorder import Recorder
from tests.unit.telemetry.sampling.remote import ALWAYS_KEPT, remote_parent

from forge_otel.context import Generation
from forge_otel.names import Attr, Metric
from forge_otel.settings import Settings
from forge_otel.telemetry.export.processor import ExportProcessor
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.sampling.tail import SamplingRules, TailSampler

USAGE = {
    Attr.GEN_AI_OPERATION: "chat",
    Attr.GEN_AI_PROVIDER: "openai",
    Attr.GEN_AI_REQUEST_MODEL: "gpt-4o",
    Attr.GEN_AI_INPUT_TOKENS: 1000,
}


class InMemoryExporter(ExportProcessor):
    """An exporter without threads that keeps its spans and counts the sampled-out ones."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.sampled_out_spans = 0

    def on_end(self, span: ReadableSpan) -> None:
        # Like the SDK's own processors.
        if span.context.trace_flags.sampled:
            self.spans.append(span)

    def sampled_out(self, count: int) -> None:
        self.sampled_out_spans += count

    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        raise NotImplementedError

    def shutdown(self) -> None:
        """Keep the spans for the assertions."""

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


class Sampled:
    """A tail sampler on a tracer provider."""

    def __init__(self, **rules: Any) -> None:
        self.kept = InMemoryExporter()
        self.sampler = TailSampler(SamplingRules(**{"rate": 0.0, **rules}))
        self.sampler.downstream.attach(self.kept)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.sampler)
        self.tracer = self.provider.get_tracer("test")

    def reasons(self) -> dict[tuple[bool, str], int]:
        return dict(self.sampler.stats().decided)


@contextmanager
def sampled_recorder(**settings: Any) -> Iterator[tuple[Telemetry, InMemoryExporter]]:
    """Yield an open telemetry that creates its tracer provider, and its exporter."""
    kept = InMemoryExporter()
    made = Recorder()
    telemetry = Telemetry(
        Settings(**{"trace_sample_rate": 0.0, **settings}), meter_provider=made.meters, span_processors=[kept]
    )
    telemetry.start()
    yield telemetry, kept
    telemetry.shutdown()
    made.close()


def fail(span: Any) -> None:
    span.set_status(StatusCode.ERROR)


KEEP_REASONS: dict[str, Callable[[Any], None]] = {
    "error": fail,
    "fallback": lambda span: span.set_attribute(Attr.DEGRADED, ["redis:memory"]),
}


@pytest.mark.parametrize("reason", KEEP_REASONS)
def test_a_trace_with_an_error_or_a_fallback_is_kept(reason: str) -> None:
    """One span is enough; every span of the trace is exported, with the reason on the root."""
    sampled = Sampled()
    with sampled.tracer.start_as_current_span("root"):
        with sampled.tracer.start_as_current_span("child") as child:
            KEEP_REASONS[reason](child)
        assert sampled.kept.spans == []
    assert sampled.kept.names == ["child", "root"]
    assert [(span.attributes or {}).get(Attr.SAMPLING_REASON) for span in sampled.kept.spans] == [None, reason]
    assert sampled.kept.spans[1].context == child.parent
    assert sampled.reasons() == {(True, reason): 1}


def test_a_slow_trace_is_kept() -> None:
    """The duration of the local root decides."""
    sampled = Sampled(slow_s=2.0)
    for name, took_s in (("fast", 1.9), ("slow", 2.0)):
        sampled.tracer.start_span(name, start_time=10**9).end(int((1 + took_s) * 10**9))
    assert (sampled.kept.names, sampled.kept.sampled_out_spans) == (["slow"], 1)


def test_an_ordinary_trace_is_sampled_out_and_counted() -> None:
    """Each of its spans is in the count of the exporter."""
    sampled = Sampled()
    with sampled.tracer.start_as_current_span("root"), sampled.tracer.start_as_current_span("child"):
        pass
    assert (sampled.kept.names, sampled.kept.sampled_out_spans) == ([], 2)
    assert sampled.reasons() == {(False, "rate"): 1}
    assert (sampled.sampler.stats().waiting_spans, sampled.sampler.stats().waiting_bytes) == (0, 0)


def test_services_with_different_rates_keep_the_same_traces() -> None:
    """The trace id decides: the traces of a lower rate are among those of a higher one."""
    kept: dict[float, set[int]] = {}
    ids = [random.Random(number).getrandbits(128) for number in range(2000)]
    for rate in (0.1, 0.5):
        sampled = Sampled(rate=rate)
        for trace_id in ids:
            sampled.tracer.start_span("work", context=remote_parent(trace_id)).end()
        kept[rate] = {span.context.trace_id for span in sampled.kept.spans}
    assert kept[0.1] < kept[0.5]
    assert len(kept[0.1]) == pytest.approx(200, rel=0.25)


def test_a_trace_that_the_caller_keeps_is_kept() -> None:
    """The caller's threshold in the tracestate decides; without one, the own rate does."""
    sampled = Sampled(rate=0.1)
    half = (7 << 100) | 2**55
    for state in (None, TraceState([("ot", "th:8")]), TraceState([("ot", "th:9")]), TraceState([("ot", "th:x")])):
        sampled.tracer.start_span("work", context=remote_parent(half, state=state)).end()
    assert sampled.reasons() == {(False, "rate"): 1, (True, "upstream"): 1, (True, "trace"): 2}


def test_late_spans_follow_the_decision() -> None:
    """Streams and callbacks end after their request."""
    sampled = Sampled()
    for decision in ("kept", "sampled out"):
        root = sampled.tracer.start_span(decision)
        context = trace.set_span_in_context(root)
        late = sampled.tracer.start_span("ends late", context=context)
        if decision == "kept":
            fail(root)
        root.end()
        sampled.tracer.start_span("starts late", context=context).end()
        late.end()
    assert sampled.kept.names == ["kept", "starts late", "ends late"]
    assert sampled.kept.sampled_out_spans == 3


def test_undecided_spans_are_limited() -> None:
    """In number and in bytes: the oldest trace is decided early, and its later spans follow."""
    for bound in ({"max_spans": 10}, {"max_bytes": 30_000}):
        sampled = Sampled(**bound)
        root = sampled.tracer.start_span("endless")
        context = trace.set_span_in_context(root)
        for number in range(1000):
            sampled.tracer.start_span("step", context=context, attributes={"text": "x" * (number % 10)}).end()
            assert sampled.sampler.stats().waiting_spans <= 15
        fail(root)
        root.end()
        assert sampled.reasons() == {(False, "evicted"): 1}
        assert (sampled.kept.names, sampled.kept.sampled_out_spans) == ([], 1001)


def test_an_old_trace_is_decided_early() -> None:
    """The start of the next trace decides it; an error so far keeps it."""
    sampled = Sampled(max_age_s=0.1)
    hanging = sampled.tracer.start_span("hanging")
    step = sampled.tracer.start_span("step", context=trace.set_span_in_context(hanging))
    fail(step)
    step.end()

    def is_decided() -> bool:
        sampled.tracer.start_span("next").end()
        return sampled.kept.names == ["step"]

    eventually(is_decided)
    hanging.end()
    assert sampled.kept.spans[-1].attributes == {Attr.SAMPLING_REASON: "error"}


def test_every_span_of_many_threads_is_accounted_for() -> None:
    """Roots end while their children end in other threads."""
    sampled = Sampled(rate=0.5)
    counted = 16 * 50 * 5

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(50):
            root = sampled.tracer.start_span("root")
            context = trace.set_span_in_context(root)
            spans = [root, *(sampled.tracer.start_span("child", context=context) for _ in range(4))]
            chance.shuffle(spans)
            threads = [threading.Thread(target=span.end) for span in spans[:2]]
            for thread in threads:
                thread.start()
            for span in spans[2:]:
                span.end()
            for thread in threads:
                thread.join()

    workers = [threading.Thread(target=work, args=[seed]) for seed in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(sampled.kept.spans) + sampled.kept.sampled_out_spans == counted
    trees: dict[int, int] = {}
    for span in sampled.kept.spans:
        trees[span.context.trace_id] = trees.get(span.context.trace_id, 0) + 1
    assert set(trees.values()) == {5}
    assert sampled.sampler.stats().waiting_spans == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_exports_no_spans_of_its_parent() -> None:
    """The parent exports its undecided traces itself."""
    sampled = Sampled(rate=1.0)
    root = sampled.tracer.start_span("root")
    sampled.tracer.start_span("step", context=trace.set_span_in_context(root)).end()
    pid = os.fork()
    if pid == 0:
        sampled.sampler.drain()
        os._exit(len(sampled.kept.spans))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    root.end()
    assert sampled.kept.names == ["step", "root"]


def test_an_expensive_trace_is_kept(generation: Generation) -> None:
    """The generation's cost includes the calls of sampled-out traces."""
    with sampled_recorder(trace_expensive_usd=0.01) as (telemetry, kept):
        tracer = telemetry.tracer
        for name, calls in (("cheap", 1), ("expensive", 4)):
            with tracer.start_as_current_span(name):
                for _ in range(calls):
                    tracer.start_span("chat", attributes=USAGE).end()
        assert kept.names == ["chat"] * 4 + ["expensive"]
    assert (kept.sampled_out_spans, len(generation.costs)) == (2, 5)


@pytest.mark.parametrize("flags", [0, 1])
def test_model_calls_of_an_unsampled_caller_are_counted(flags: int, generation: Generation) -> None:
    """A `traceparent` with flag 00 prevents the export of spans, but not the cost of the agent."""
    with sampled_recorder(trace_sample_rate=1.0) as (telemetry, kept):
        tracer = telemetry.tracer
        server = tracer.start_span("GET /", context=remote_parent(ALWAYS_KEPT, flags=flags), kind=SpanKind.SERVER)
        context = trace.set_span_in_context(server)
        agent = tracer.start_span("coder", context=context, attributes={Attr.GEN_AI_AGENT_NAME: "coder"})
        call = tracer.start_span("chat", context=trace.set_span_in_context(agent), kind=SpanKind.CLIENT)
        call.set_attributes(USAGE)
        for span in (call, agent, server):
            span.end()
        assert (server.is_recording(), len(kept.spans)) == (False, 3 if flags else 0)
    assert [(cost.agent, cost.usage.input_tokens, float(cost.amount_usd or 0)) for cost in generation.costs] == [
        ("coder", 1000, 0.0025)
    ]


def test_langsmith_counts_sampled_out_spans() -> None:
    """Its accounting includes the spans that it did not receive."""
    with bridge(run_filter=lambda _span: True) as found:
        sampler = TailSampler(SamplingRules(rate=0.0))
        sampler.downstream.attach(found.processor)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(sampler)
        tracer = provider.get_tracer("test")
        for name in ("sampled out", "kept"):
            with tracer.start_as_current_span(name, attributes={Attr.SPAN_KIND: "agent"}) as root:
                with tracer.start_as_current_span(f"{name} step", attributes={Attr.SPAN_KIND: "step"}):
                    pass
                if name == "kept":
                    fail(root)
        found.flush()
        assert sorted(run.name for run in found.langsmith.runs()) == ["kept", "kept step"]
        stats = found.processor.stats()
        assert (stats.produced, stats.exported, stats.sampled_out, stats.waiting) == (4, 2, 2, 0)


def test_of_two_samplers_with_langsmith_one_exports() -> None:
    """An exporter behind a sampler is still a singleton; the next takes over when the sampler is detached."""
    with bridge() as one, bridge() as other:
        first, second = TailSampler(SamplingRules()), TailSampler(SamplingRules())
        first.downstream.attach(one.processor)
        second.downstream.attach(other.processor)
        hub = TailSampler(SamplingRules()).downstream
        hub.attach(first)
        hub.attach(second)
        assert (first.downstream.running, second.downstream.running) == ((one.processor,), ())
        hub.detach(first)
        assert second.downstream.running == (other.processor,)


def test_the_decisions_are_metrics() -> None:
    """By outcome and reason."""
    made = Recorder(Settings(trace_sample_rate=0.0))
    with made.tracers.get_tracer("test").start_as_current_span("root") as root:
        fail(root)
    made.tracers.get_tracer("test").start_span("dull").end()
    assert made.values(Metric.TRACES_DECIDED) == {("kept", "error"): 1, ("sampled_out", "rate"): 1}
    assert made.values(Metric.TRACES_WAITING) == {(): 0}
    made.close()
