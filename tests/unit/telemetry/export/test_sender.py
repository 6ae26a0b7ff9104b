"""Sending of batches: retries, splits and drops, and what each costs in spans."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.unit.telemetry.bridge import Bridge, bridge, eventually, fast_export

from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.export.spool import SpoolOptions
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

RETRYABLE = [
    *(LangSmithFault(status=status, times=3) for status in (408, 429, 500, 502, 503)),
    LangSmithFault(kind="reset", times=3),
    LangSmithFault(kind="hang", times=1),
]


def end_spans(there: Bridge, count: int, **attributes: str) -> set[str]:
    """End root spans that become runs, and return their names."""
    for number in range(count):
        there.tracer.start_span(f"run {number}", attributes={"forge.span.kind": "agent", **attributes}).end()
    return {f"run {number}" for number in range(count)}


def arrived(there: Bridge) -> Counter[str]:
    """Return the names of the accepted spans, and how often each arrived."""
    return Counter(span.name for span in there.langsmith.spans)


@pytest.mark.parametrize("fault", RETRYABLE, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_a_retryable_error_loses_no_span(fault: LangSmithFault) -> None:
    """Each span arrives exactly once after it."""
    with bridge(max_batch_size=20) as there:
        there.langsmith.fail(fault)
        names = end_spans(there, 100)
        there.flush()
        assert arrived(there) == Counter(names)
        assert sum(there.langsmith.outcomes.values()) - there.langsmith.outcomes["200"] == fault.times
        stats = there.processor.stats()
        assert (stats.exported, stats.waiting, dict(stats.dropped)) == (100, 0, {})


def test_a_requested_pause_is_honoured() -> None:
    """The next attempt waits for Retry-After, although the own back-off is shorter."""
    with bridge() as there:
        there.langsmith.fail(LangSmithFault(status=429, retry_after_s=1, times=1))
        started_s = time.monotonic()
        end_spans(there, 1)
        there.flush()
        assert time.monotonic() - started_s >= 1.0
        assert there.langsmith.outcomes == {"429": 1, "200": 1}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_spans_wait_while_key_or_url_is_wrong(status: int) -> None:
    """The status is reported as the last error, and each span arrives once when the configuration is corrected."""
    with bridge(max_batch_size=5) as there:
        there.langsmith.fail(LangSmithFault(status=status))
        names = end_spans(there, 20)
        eventually(lambda: there.langsmith.outcomes[str(status)] > 1)
        assert there.processor.stats().last_error == f"HTTP {status}"
        assert there.is_balanced
        there.langsmith.recover()
        there.flush()
        assert arrived(there) == Counter(names)
        assert there.processor.stats().last_error == ""


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_rejected_batch_is_dropped(status: int) -> None:
    """It is counted as `refused` without another attempt, and the next batch is sent."""
    with bridge() as there:
        there.langsmith.fail(LangSmithFault(status=status, times=1))
        end_spans(there, 10)
        there.flush()
        names = end_spans(there, 10)
        there.flush()
        assert arrived(there) == Counter(names)
        assert dict(there.processor.stats().dropped) == {"refused": 10}
        assert there.is_balanced


def test_a_too_large_batch_is_split() -> None:
    """413 halves a batch until it fits; only a single span that is too large is dropped."""
    with bridge(server=LangSmithStandIn(max_bytes=2_000)) as there:
        names = end_spans(there, 100, filling=os.urandom(100).hex())
        huge = {"forge.span.kind": "agent", "filling": os.urandom(5_000).hex()}
        there.tracer.start_span("huge", attributes=huge).end()
        there.flush()
        assert arrived(there) == Counter(names)
        assert dict(there.processor.stats().dropped) == {"too_large": 1}
        assert there.langsmith.outcomes["413"] > 1


def test_a_batch_that_keeps_failing_lets_the_others_pass() -> None:
    """After `rotate_after_s` it moves to the end of the queue; it is not dropped."""
    retry = RetryPolicy(rotate_after_s=0.05, initial_backoff_s=0.01, max_backoff_s=0.05)
    with bridge(export=fast_export(retry=retry), max_batch_size=10) as there:
        there.langsmith.fail(LangSmithFault(status=500, body_contains=b"run 3"))
        names = end_spans(there, 30)
        eventually(lambda: len(there.langsmith.spans) == 20)
        there.langsmith.recover()
        there.flush()
        assert arrived(there) == Counter(names)
        assert there.is_balanced


def test_a_too_old_batch_is_dropped() -> None:
    """Retries end with the age limit of the spool, and the spans are counted."""
    with bridge(export=fast_export(spool=SpoolOptions(max_age_s=0.2))) as there:
        there.langsmith.fail(LangSmithFault())
        end_spans(there, 10)
        there.flush()
        assert dict(there.processor.stats().dropped) == {"too_old": 10}
        assert there.is_balanced


def test_a_pause_between_attempts_does_not_delay_shutdown(tmp_path: Path) -> None:
    """Shutdown makes one more attempt at once; a server that has recovered accepts all spans."""
    retry = RetryPolicy(initial_backoff_s=30, max_backoff_s=30)
    with bridge(export=fast_export(spool=SpoolOptions(directory=tmp_path), retry=retry)) as there:
        there.langsmith.fail(LangSmithFault(times=1))
        names = end_spans(there, 10)
        eventually(lambda: there.langsmith.outcomes["503"] == 1)
        there.processor.shutdown()
        assert arrived(there) == Counter(names)
