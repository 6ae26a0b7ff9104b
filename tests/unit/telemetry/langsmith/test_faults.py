"""LangSmith refuses, chokes, hangs and comes back: every span is accounted for, and none arrives twice."""

import os
import time
from collections import Counter

import pytest
from tests.unit.telemetry.bridge import Bridge, bridge, eventually

from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.export.spool import SpoolOptions
from forge_otel.telemetry.langsmith.settings import is_sampled
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

ALL = {"keep": lambda _span: True}
PASSING = [
    *(LangSmithFault(status=status, times=3) for status in (408, 429, 500, 502, 503)),
    LangSmithFault(kind="reset", times=3),
    LangSmithFault(kind="hang", times=1),
]


def end_spans(there: Bridge, count: int, **attributes: str) -> set[str]:
    """End `count` spans, a tree of two levels each ten; return their names."""
    for number in range(0, count, 10):
        with there.tracer.start_as_current_span(f"run {number}", attributes=attributes):
            for below in range(number + 1, min(number + 10, count)):
                there.tracer.start_span(f"run {below}", attributes=attributes).end()
    return {f"run {number}" for number in range(count)}


def arrived(there: Bridge) -> Counter[str]:
    """Names of the spans that LangSmith took, and how often."""
    return Counter(span.name for span in there.langsmith.spans)


def is_balanced(there: Bridge) -> bool:
    """Say whether every span that was produced is in exactly one of the other numbers."""
    stats = there.processor.stats()
    return stats.produced == stats.exported + stats.waiting + stats.sampled_out + sum(stats.dropped.values())


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_what_passes_costs_nothing(fault: LangSmithFault) -> None:
    """Each span arrives exactly once after a fault that another attempt gets over."""
    with bridge(**ALL, max_batch=20) as there:
        there.langsmith.fail(fault)
        names = end_spans(there, 100)
        there.flush()
        assert arrived(there) == Counter(names)
        assert sum(there.langsmith.answers.values()) - there.langsmith.answers["200"] == fault.times
        stats = there.processor.stats()
        assert (stats.exported, stats.waiting, dict(stats.dropped)) == (100, 0, {})


def test_a_server_that_wants_time_gets_it() -> None:
    """The next attempt comes when Retry-After is over, not when our own wait is."""
    with bridge(**ALL) as there:
        there.langsmith.fail(LangSmithFault(status=429, retry_after_s=1, times=1))
        started_s = time.monotonic()
        end_spans(there, 1)
        there.flush()
        assert time.monotonic() - started_s >= 1.0
        assert there.langsmith.answers == {"429": 1, "200": 1}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_is_waited_out(status: int) -> None:
    """Somebody will mend it: until then spans wait, and then each arrives once."""
    with bridge(**ALL, max_batch=5) as there:
        there.langsmith.fail(LangSmithFault(status=status))
        names = end_spans(there, 20)
        eventually(lambda: there.langsmith.answers[str(status)] > 1)
        assert there.processor.stats().fault == f"HTTP {status}"
        assert is_balanced(there)
        there.langsmith.recover()
        there.flush()
        assert arrived(there) == Counter(names)
        assert there.processor.stats().fault == ""


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_no_is_not_asked_again(status: int) -> None:
    """What another attempt would not change is counted, and the next batch goes through."""
    with bridge(**ALL) as there:
        there.langsmith.fail(LangSmithFault(status=status, times=1))
        end_spans(there, 10)
        there.flush()
        names = end_spans(there, 10)
        there.flush()
        assert arrived(there) == Counter(names)
        assert dict(there.processor.stats().dropped) == {"refused": 10}
        assert is_balanced(there)


def test_too_large_is_sent_in_parts() -> None:
    """413 halves a batch until it fits; only a span that is too large by itself is lost, and counted."""
    with bridge(**ALL, server=LangSmithStandIn(max_bytes=2_000)) as there:
        names = end_spans(there, 100, filling=os.urandom(100).hex())
        there.tracer.start_span("huge", attributes={"filling": os.urandom(5_000).hex()}).end()
        there.flush()
        assert arrived(there) == Counter(names)
        assert dict(there.processor.stats().dropped) == {"too_large": 1}
        assert there.langsmith.answers["413"] > 1


def test_a_batch_that_chokes_the_server_lets_others_pass() -> None:
    """Its time used up, it goes to the end of the line, and is not given up."""
    policy = RetryPolicy(budget_s=0.05, first_wait_s=0.01, max_wait_s=0.05)
    with bridge(**ALL, max_batch=10, policy=policy) as there:
        there.langsmith.fail(LangSmithFault(status=500, about=b"run 3"))
        names = end_spans(there, 30)
        eventually(lambda: len(there.langsmith.spans) == 20)
        there.langsmith.recover()
        there.flush()
        assert arrived(there) == Counter(names)
        assert is_balanced(there)


def test_what_is_too_old_is_not_sent() -> None:
    """Patience ends with the age limit, and what it cost is counted."""
    with bridge(**ALL, spool=SpoolOptions(max_age_s=0.2)) as there:
        there.langsmith.fail(LangSmithFault())
        end_spans(there, 10)
        there.flush()
        assert dict(there.processor.stats().dropped) == {"too_old": 10}
        assert is_balanced(there)


def test_an_outage_is_waited_out_within_bounds() -> None:
    """What there is room for waits and arrives once; the rest is counted, and the books balance all the while."""
    with bridge(**ALL, max_waiting=50) as there:
        there.langsmith.fail(LangSmithFault())
        end_spans(there, 20)
        eventually(lambda: there.langsmith.answers["503"] > 3)
        end_spans(there, 200)
        assert is_balanced(there)
        assert there.processor.stats().waiting == 50
        there.langsmith.recover()
        eventually(lambda: there.processor.stats().waiting < 50)
        there.processor.shutdown()
        stats = there.processor.stats()
        assert (stats.produced, stats.exported, dict(stats.dropped)) == (220, 50, {"queue_full": 170})
        assert len({span.span_id for span in there.langsmith.spans}) == len(there.langsmith.spans) == 50


def test_the_exit_is_bounded() -> None:
    """A server that says nothing at all costs the time that was given, and what waits is counted."""
    patient = RetryPolicy(attempt_timeout_s=60)
    with bridge(**ALL, policy=patient, shutdown_timeout_s=0.5) as there:
        there.langsmith.fail(LangSmithFault(kind="hang"))
        end_spans(there, 30)
        eventually(lambda: there.langsmith.answers["hang"] == 1)
        started_s = time.monotonic()
        there.processor.shutdown()
        assert time.monotonic() - started_s < 1.5
        stats = there.processor.stats()
        assert (stats.produced, stats.waiting, dict(stats.dropped)) == (30, 0, {"shutdown": 30})
        there.langsmith.recover()


def test_the_exit_sends_what_waits() -> None:
    """Spans that ended a moment before, and those whose parent has not, are sent on the way out."""
    with bridge(**ALL) as there:
        parent = there.tracer.start_as_current_span("parent")
        with parent:
            names = end_spans(there, 20)
            there.processor.shutdown()
            assert arrived(there) == Counter(names)
        assert len(there.langsmith.runs()) == 20


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_sends_its_own_spans() -> None:
    """What waited at the fork is sent by the parent alone, what ends in the child by the child."""
    with bridge(**ALL) as there:
        there.langsmith.fail(LangSmithFault())
        end_spans(there, 20)
        eventually(lambda: there.langsmith.answers["503"] > 0)
        child = os.fork()
        if child == 0:
            there.tracer.start_span("of the child").end()
            sent = there.processor.force_flush(10_000) and there.processor.stats().exported == 1
            os._exit(0 if sent else 1)
        there.langsmith.recover()
        assert os.waitpid(child, 0)[1] == 0
        there.flush()
        assert arrived(there) == Counter([*(f"run {number}" for number in range(20)), "of the child"])


def test_a_share_of_the_traces_is_sent_whole() -> None:
    """Sampling is by trace: a tree is sent with all its spans or not at all, and what is not is counted."""
    with bridge(**ALL, options={"sampling_rate": 0.3}) as there:
        end_spans(there, 1000)
        there.flush()
        taken = Counter(span.trace_id for span in there.langsmith.spans)
        assert set(taken.values()) == {10}
        assert 10 < len(taken) < 60
        stats = there.processor.stats()
        assert (stats.exported, stats.sampled_out) == (10 * len(taken), 1000 - 10 * len(taken))


def test_every_process_samples_alike() -> None:
    """The choice depends on the trace id and the rate only, and a higher rate keeps what a lower one keeps."""
    kept = {rate: {trace_id for trace_id in range(1000) if is_sampled(trace_id, rate)} for rate in (0, 0.1, 0.5, 1)}
    assert kept[0] < kept[0.1] < kept[0.5] < kept[1] == set(range(1000))
    assert 450 < len(kept[0.5]) < 550
