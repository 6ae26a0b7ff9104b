"""The LangSmith exporter as part of `Telemetry`: settings of the environment, sampling and missing key."""

from collections import Counter
from decimal import Decimal

import pytest
from tests.unit.telemetry.bridge import bridge
from tests.unit.telemetry.recorder import Recorder

from forge_otel.names import Metric
from forge_otel.settings import Settings
from forge_otel.testing.langsmith.server import LangSmithStandIn


def test_decorated_functions_are_exported_if_there_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents become runs, other spans do not; the span counts are metrics, and shutdown sends waiting runs."""
    with LangSmithStandIn(api_key="key") as langsmith:
        monkeypatch.setenv("LANGSMITH_API_KEY", "key")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", langsmith.url)
        recorder = Recorder(Settings(capture_content=True))
        with recorder.spans.span("writer", kind="agent"), recorder.tracers.get_tracer("t").start_as_current_span("x"):
            recorder.spans.record_usage(1_000_000, 0, model="gpt-4o", provider="openai", cost_usd=Decimal(1))
        assert recorder.values(Metric.EXPORT_PRODUCED) == {("langsmith",): 2}
        recorder.telemetry.shutdown()
        recorder.close()
        assert [run.name for run in langsmith.runs()] == ["invoke_agent writer"]


def test_without_a_key_nothing_is_exported(caplog: pytest.LogCaptureFixture) -> None:
    """One log line names the missing variable, and there are no export metrics."""
    caplog.set_level("INFO", logger="forge_otel.telemetry.providers")
    recorder = Recorder()
    with recorder.spans.span("writer", kind="agent"):
        pass
    assert recorder.values(Metric.EXPORT_PRODUCED) == {}
    recorder.close()
    assert sum("LANGSMITH_API_KEY" in record.getMessage() for record in caplog.records) == 1


def test_sampling_keeps_or_discards_whole_traces() -> None:
    """Each trace is sent with all its spans or not at all, and discarded spans are counted."""
    with bridge(run_filter=lambda _span: True, options={"sampling_rate": 0.3}) as there:
        for _ in range(100):
            with there.tracer.start_as_current_span("root"):
                for number in range(9):
                    there.tracer.start_span(str(number)).end()
        there.flush()
        sent = Counter(span.trace_id for span in there.langsmith.spans)
        assert set(sent.values()) == {10}
        assert 10 < len(sent) < 60
        stats = there.processor.stats()
        assert (stats.exported, stats.sampled_out) == (10 * len(sent), 1000 - 10 * len(sent))
