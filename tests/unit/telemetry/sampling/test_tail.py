"""Which traces are exported, and that figures do not depend on it."""

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tests.unit.telemetry.bridge import bridge, eventually
from tests.unit.telemetry.recorder import Recorder

from forge_otel.context import Generation
from forge_otel.names import Attr, Metric
from forge_otel.settings import Settings
from forge_otel.telemetry.export.processor import ExportProcessor
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.sampling.probability import is_kept_upstream, randomness, threshold, with_threshold
from forge_otel.telemetry.sampling.recording_sampler import RecordingSampler
from forge_otel.telemetry.sampling.tail import SamplingRules, TailSampler

# By the lowest 56 bits of a trace id: the last of a rate, and the first.
LUCKY, UNLUCKY = (7 << 100) | (2**56 - 1), 7 << 100
USAGE = {
    Attr.GEN_AI_OPERATION: "chat",
    Attr.GEN_AI_PROVIDER: "openai",
    Attr.GEN_AI_REQUEST_MODEL: "gpt-4o",
    Attr.GEN_AI_INPUT_TOKENS: 1000,
}


class InMemoryExporter(ExportProcessor):
    """An exporter without threads that keeps its spans and its count of the others."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.left_out = 0

    def on_end(self, span: ReadableSpan) -> None:
        # Like the SDK's own processors.
        if span.context.trace_flags.sampled:
            self.spans.append(span)

    def sampled_out(self, count: int) -> None:
        self.left_out += count

    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        raise NotImplementedError

    def shutdown(self) -> None:
        """Keep the spans for the assertions."""

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


class Sampled:
    """A tail sampler on a provider of its own."""

    def __init__(self, **rules: Any) -> None:
        self.kept = InMemoryExporter()
        self.sampler = TailSampler(SamplingRules(**{"rate": 0.0, **rules}))
        self.sampler.downstream.attach(self.kept)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.sampler)
        self.tracer = self.provider.get_tracer("test")

    def reasons(self) -> dict[tuple[bool, str], int]:
        return dict(self.sampler.stats().decided)


def below(trace_id: int, *, state: TraceState | None = None, flags: int = 1) -> Any:
    """A context whose span is in another process."""
    context = SpanContext(trace_id, 99, is_remote=True, trace_flags=TraceFlags(flags), trace_state=state)
    return trace.set_span_in_context(NonRecordingSpan(context))


@contextmanager
def sampled_recorder(**settings: Any) -> Iterator[tuple[Telemetry, InMemoryExporter]]:
    """An open telemetry that makes its own tracer provider, and what it exports."""
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


INTERESTING: dict[str, Callable[[Any], None]] = {
    "error": fail,
    "fallback": lambda span: span.set_attribute(Attr.DEGRADED, ["redis:memory"]),
}


@pytest.mark.parametrize("reason", INTERESTING)
def test_what_speaks_for_itself_is_kept_whole(reason: str) -> None:
    """One span below the root is enough, every span of the trace arrives, and the root says why."""
    sampled = Sampled()
    with sampled.tracer.start_as_current_span("root"):
        with sampled.tracer.start_as_current_span("child") as child:
            INTERESTING[reason](child)
        assert sampled.kept.spans == []
    assert sampled.kept.names == ["child", "root"]
    assert [(span.attributes or {}).get(Attr.SAMPLING_REASON) for span in sampled.kept.spans] == [None, reason]
    assert sampled.kept.spans[1].context == child.parent
    assert sampled.reasons() == {(True, reason): 1}


def test_what_is_slow_is_kept() -> None:
    """By the time of the local root."""
    sampled = Sampled(slow_s=2.0)
    for name, took_s in (("fast", 1.9), ("slow", 2.0)):
        sampled.tracer.start_span(name, start_time=10**9).end(int((1 + took_s) * 10**9))
    assert (sampled.kept.names, sampled.kept.left_out) == (["slow"], 1)


def test_the_rest_is_left_out_and_counted() -> None:
    """Nothing of it arrives, and each of its spans is accounted for."""
    sampled = Sampled()
    with sampled.tracer.start_as_current_span("root"), sampled.tracer.start_as_current_span("child"):
        pass
    assert (sampled.kept.names, sampled.kept.left_out) == ([], 2)
    assert sampled.reasons() == {(False, "rate"): 1}
    assert (sampled.sampler.stats().waiting_spans, sampled.sampler.stats().waiting_bytes) == (0, 0)


def test_a_share_of_the_rest_is_kept_the_same_in_every_service() -> None:
    """The trace's id says it: nearly so many, and of a larger rate all those of a smaller one."""
    kept: dict[float, set[int]] = {}
    ids = [random.Random(number).getrandbits(128) for number in range(2000)]
    for rate in (0.1, 0.5):
        sampled = Sampled(rate=rate)
        for trace_id in ids:
            sampled.tracer.start_span("work", context=below(trace_id)).end()
        kept[rate] = {span.context.trace_id for span in sampled.kept.spans}
    assert kept[0.1] < kept[0.5]
    assert len(kept[0.1]) == pytest.approx(200, rel=0.25)


def test_what_the_sender_keeps_is_kept() -> None:
    """A service above with a larger rate says in the tracestate which traces it keeps; without that, our rate holds."""
    sampled = Sampled(rate=0.1)
    half = (7 << 100) | 2**55
    for state in (None, TraceState([("ot", "th:8")]), TraceState([("ot", "th:9")]), TraceState([("ot", "th:x")])):
        sampled.tracer.start_span("work", context=below(half, state=state)).end()
    assert sampled.reasons() == {(False, "rate"): 1, (True, "upstream"): 1, (True, "trace"): 2}


def test_a_service_says_below_what_it_keeps() -> None:
    """As OpenTelemetry's threshold, beside what others wrote; a threshold that is not reached is taken away."""
    tracer = TracerProvider(RecordingSampler(ParentBased(ALWAYS_ON), rate=0.1)).get_tracer("test")
    told = {}
    for name, trace_id in (("lucky", LUCKY), ("unlucky", UNLUCKY)):
        parent = below(trace_id, state=TraceState([("vendor", "x"), ("ot", "th:f;p:1")]))
        with tracer.start_as_current_span(name, context=parent), tracer.start_as_current_span("child"):
            carrier: dict[str, str] = {}
            TraceContextTextMapPropagator().inject(carrier)
            told[name] = carrier["tracestate"]
    assert told == {"lucky": "vendor=x,ot=th:f;p:1", "unlucky": "ot=p:1,vendor=x"}
    with tracer.start_as_current_span("lucky", context=below(LUCKY)) as span:
        assert dict(span.get_span_context().trace_state) == {"ot": "th:e6666666666666"}


def test_thresholds() -> None:
    """The examples of the specification, and a sender's own randomness."""
    assert [with_threshold(None, threshold(rate))["ot"] for rate in (1, 0.5, 0.25)] == ["th:0", "th:8", "th:c"]
    state = TraceState([("ot", "th:c;rv:d0000000000000")])
    assert randomness(UNLUCKY, state) == 0xD0000000000000
    assert is_kept_upstream(UNLUCKY, state)
    assert not is_kept_upstream(UNLUCKY, TraceState([("ot", "th:c")]))
    full = TraceState([(f"v{number}", "x") for number in range(32)])
    assert with_threshold(full, 1) is full


def test_a_span_that_ends_or_starts_late_shares_the_fate() -> None:
    """Streams and callbacks outlive their request."""
    sampled = Sampled()
    for fate in ("kept", "lost"):
        root = sampled.tracer.start_span(fate)
        context = trace.set_span_in_context(root)
        late = sampled.tracer.start_span("ends late", context=context)
        if fate == "kept":
            fail(root)
        root.end()
        sampled.tracer.start_span("starts late", context=context).end()
        late.end()
    assert sampled.kept.names == ["kept", "starts late", "ends late"]
    assert sampled.kept.left_out == 3


def test_what_waits_is_bounded() -> None:
    """By count and by bytes: the oldest trace is decided early, and what comes of it later follows."""
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
        assert (sampled.kept.names, sampled.kept.left_out) == ([], 1001)


def test_a_trace_that_never_ends_grows_old() -> None:
    """The next one that begins decides it; what was an error by then is kept."""
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
    """Roots end while their children do, in other threads."""
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
    assert len(sampled.kept.spans) + sampled.kept.left_out == counted
    trees: dict[int, int] = {}
    for span in sampled.kept.spans:
        trees[span.context.trace_id] = trees.get(span.context.trace_id, 0) + 1
    assert set(trees.values()) == {5}
    assert sampled.sampler.stats().waiting_spans == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_sends_nothing_of_its_parent() -> None:
    """What waits is the parent's to send."""
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


def test_what_is_expensive_is_kept_and_all_is_counted(generation: Generation) -> None:
    """The generation's cost is that of all calls, whatever is exported."""
    with sampled_recorder(trace_expensive_usd=0.01) as (telemetry, kept):
        tracer = telemetry.tracer
        for name, calls in (("cheap", 1), ("dear", 4)):
            with tracer.start_as_current_span(name):
                for _ in range(calls):
                    tracer.start_span("chat", attributes=USAGE).end()
        assert kept.names == ["chat"] * 4 + ["dear"]
    assert (kept.left_out, len(generation.costs)) == (2, 5)


@pytest.mark.parametrize("flags", [0, 1])
def test_an_unsampled_callers_model_calls_cost_money(flags: int, generation: Generation) -> None:
    """A `traceparent` with flag 00 hides spans, and no usage: the agent and the amount are known."""
    with sampled_recorder(trace_sample_rate=1.0) as (telemetry, kept):
        tracer = telemetry.tracer
        server = tracer.start_span("GET /", context=below(LUCKY, flags=flags), kind=SpanKind.SERVER)
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


def test_what_is_not_about_models_stays_unrecorded() -> None:
    """A request, an HTTP call or a query costs nothing where it is not sampled."""
    tracer = TracerProvider(RecordingSampler(ALWAYS_OFF)).get_tracer("test")
    assert not tracer.start_span("GET /", kind=SpanKind.SERVER).is_recording()
    assert not tracer.start_span("GET", kind=SpanKind.CLIENT, attributes={"http.request.method": "GET"}).is_recording()
    assert not tracer.start_span("select", attributes={"db.system.name": "postgresql"}).is_recording()
    recorded = tracer.start_span("chat")
    assert recorded.is_recording()
    assert not recorded.get_span_context().trace_flags.sampled


def test_langsmith_gets_kept_traces_and_counts_the_others() -> None:
    """Its ledger knows of every span that it was spared."""
    with bridge(run_filter=lambda _span: True) as found:
        sampler = TailSampler(SamplingRules(rate=0.0))
        sampler.downstream.attach(found.processor)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(sampler)
        tracer = provider.get_tracer("test")
        for name in ("lost", "kept"):
            with tracer.start_as_current_span(name, attributes={Attr.SPAN_KIND: "agent"}) as root:
                with tracer.start_as_current_span(f"{name} step", attributes={Attr.SPAN_KIND: "step"}):
                    pass
                if name == "kept":
                    fail(root)
        found.flush()
        assert sorted(run.name for run in found.langsmith.runs()) == ["kept", "kept step"]
        stats = found.processor.stats()
        assert (stats.produced, stats.exported, stats.sampled_out, stats.waiting) == (4, 2, 2, 0)


def test_two_telemetries_send_each_trace_to_langsmith_once() -> None:
    """An exclusive exporter behind a sampler is one of its kind still, and the next takes over where it leaves."""
    with bridge() as one, bridge() as other:
        first, second = TailSampler(SamplingRules()), TailSampler(SamplingRules())
        first.downstream.attach(one.processor)
        second.downstream.attach(other.processor)
        board = TailSampler(SamplingRules()).downstream
        board.attach(first)
        board.attach(second)
        assert (first.downstream.running, second.downstream.running) == ((one.processor,), ())
        board.detach(first)
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
