"""Random trees of spans and random filters: every kept span is a run below its nearest kept ancestor."""

import random
from dataclasses import dataclass, field

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, set_span_in_context
from tests.unit.telemetry.bridge import bridge

TREES = 500
TREES_PER_CASE = 50


@dataclass
class Drawn:
    """One span of a random tree with its expected place."""

    span: Span
    parent: "Drawn | None"
    is_kept: bool
    below: list["Drawn"] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Return its id as LangSmith shows it."""
        return trace.format_span_id(self.span.get_span_context().span_id)

    @property
    def expected_parent(self) -> str:
        """Return the id of the nearest kept ancestor; "" at a root."""
        parent = self.parent
        while parent is not None and not parent.is_kept:
            parent = parent.parent
        return "" if parent is None else parent.id


def remote_parent(chance: random.Random) -> SpanContext:
    """Return the span of a gateway that LangSmith never receives."""
    return SpanContext(chance.getrandbits(127) + 1, chance.getrandbits(63) + 1, True, TraceFlags(1))


def draw(tracer: trace.Tracer, chance: random.Random) -> list[Drawn]:
    """Start a tree of up to 25 spans, half of the time below a remote parent, and end them in any order."""
    start = set_span_in_context(NonRecordingSpan(remote_parent(chance))) if chance.random() < 0.5 else None
    share_kept = chance.random()
    tree: list[Drawn] = []
    for _ in range(chance.randint(1, 25)):
        parent = chance.choice(tree) if tree else None
        is_kept = chance.random() < share_kept
        context = start if parent is None else set_span_in_context(parent.span)
        tree.append(Drawn(tracer.start_span("run" if is_kept else "noise", context=context), parent, is_kept))
    ending = chance.sample(tree, len(tree)) if chance.random() < 0.5 else tree[::-1]
    for drawn in ending:
        drawn.span.end()
    return tree


@pytest.mark.parametrize("seed", range(TREES // TREES_PER_CASE))
def test_no_kept_span_is_lost_moved_or_orphaned(seed: int) -> None:
    """In 500 trees, each kept span is one run, and its parent is the nearest kept ancestor."""
    chance = random.Random(seed)
    with bridge(run_filter=lambda span: span.name == "run", max_batch_size=chance.randint(1, 40)) as there:
        drawn = [item for _ in range(TREES_PER_CASE) for item in draw(there.tracer, chance)]
        there.flush()
        kept = {item.id: item.expected_parent for item in drawn if item.is_kept}
        assert {run.id: run.parent_id for run in there.langsmith.runs()} == kept
        assert len(there.langsmith.spans) == len(kept)
        stats = there.processor.stats()
        assert (stats.produced, stats.exported, stats.waiting) == (len(drawn), len(kept), 0)
        assert stats.dropped.get("filtered", 0) == len(drawn) - len(kept)


def test_a_request_is_a_run_only_with_runs_below_it() -> None:
    """A health check is no billed trace; a request with an agent is the root of its tree."""
    with bridge() as there:
        with there.tracer.start_as_current_span("GET /livez", kind=SpanKind.SERVER):
            pass
        with (
            there.tracer.start_as_current_span("POST /generate", kind=SpanKind.SERVER),
            there.tracer.start_as_current_span("http send"),
            there.tracer.start_as_current_span("invoke_agent a", attributes={"forge.span.kind": "agent"}),
        ):
            pass
        there.flush()
        root, agent = there.langsmith.runs()
        assert (root.name, agent.name, agent.parent_id) == ("POST /generate", "invoke_agent a", root.id)


def test_a_cut_parent_is_kept_as_a_link() -> None:
    """The span id of the caller in another process is in the metadata, its context in a link."""
    gateway = remote_parent(random.Random(1))
    with bridge(run_filter=lambda _span: True) as there:
        there.tracer.start_span("run", context=set_span_in_context(NonRecordingSpan(gateway))).end()
        there.flush()
        (run,) = there.langsmith.runs()
        (span,) = there.langsmith.spans
        assert (run.parent_id, run.metadata["remote_parent_span_id"]) == ("", trace.format_span_id(gateway.span_id))
        assert [link.span_id.hex() for link in span.links] == [trace.format_span_id(gateway.span_id)]


def test_a_span_waits_for_its_parent_within_a_limit() -> None:
    """If the parent does not end in time, the child is sent as a root."""
    with bridge(run_filter=lambda _span: True, max_age_s=0.0) as there:
        parent = there.tracer.start_span("parent")
        there.tracer.start_span("child", context=set_span_in_context(parent)).end()
        there.flush()
        assert [(run.name, run.parent_id) for run in there.langsmith.runs()] == [("child", "")]


def test_a_span_whose_filter_fails_is_not_sent() -> None:
    """It is counted as `filtered`."""

    def failing_filter(span: ReadableSpan) -> bool:
        raise LookupError(span.name)

    with bridge(run_filter=failing_filter) as there:
        there.tracer.start_span("a").end()
        there.flush()
        assert (there.langsmith.spans, there.processor.stats().dropped) == ([], {"filtered": 1})
