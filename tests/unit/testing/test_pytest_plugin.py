"""The fixtures for tests of services."""

import pytest
from opentelemetry.trace import format_span_id

from forge_otel.testing.langsmith.server import LangSmithStandIn
from forge_otel.testing.pytest_plugin import RecordedForge, langsmith_stand_in, recorded_forge
from forge_otel.testing.traces import assert_trace

__all__ = ["langsmith_stand_in", "recorded_forge"]

EXPECTED = """
    invoke_agent writer
      execute_tool search
      chat gpt-4o
    invoke_agent critic !
"""


async def work(forge: RecordedForge) -> None:
    """Record two traces, the second of which fails."""
    async with forge:
        with forge.span("writer", kind="agent"):
            with forge.span("search", kind="tool"):
                pass
            with forge.span("chat gpt-4o", kind="llm"):
                pass
        with pytest.raises(ValueError, match="no"), forge.span("critic", kind="agent"):
            raise ValueError("no")


async def test_a_recorded_forge_has_its_spans_with_reproducible_ids(recorded_forge: RecordedForge) -> None:
    """Ids count from 1, in the order in which spans start."""
    await work(recorded_forge)
    recorded_forge.assert_trace(EXPECTED)
    ids = [format_span_id(span.get_span_context().span_id) for span in recorded_forge.spans]  # type: ignore[union-attr]
    assert ids == [f"{number:016x}" for number in (2, 3, 1, 4)]


async def test_both_fixtures_work_together(recorded_forge: RecordedForge, langsmith_stand_in: LangSmithStandIn) -> None:
    """The recorded spans are the runs in LangSmith."""
    await work(recorded_forge)
    assert_trace(langsmith_stand_in.runs(), EXPECTED)


async def test_a_developers_key_is_not_used(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A recorded forge does not export to the LangSmith of the environment."""
    monkeypatch.setenv("LANGSMITH_API_KEY", "real")
    forge: RecordedForge = request.getfixturevalue("recorded_forge")
    await work(forge)
    assert forge.telemetry.exports() == {}
