"""What users of the library test their traces with: outlines, fixtures, and a LangSmith that knows its own client."""

import os
import textwrap
import time
from typing import Any

import pytest
from langsmith import Client
from langsmith._internal._background_thread import LANGSMITH_CLIENT_THREAD_POOL
from langsmith.run_helpers import trace, tracing_context
from opentelemetry.trace import format_span_id

from forge_otel.testing.langsmith.server import LangSmithStandIn
from forge_otel.testing.pytest_plugin import RecordedForge, langsmith_stand_in, recorded_forge
from forge_otel.testing.traces import assert_trace, outline, trace_trees

__all__ = ["langsmith_stand_in", "recorded_forge"]


@pytest.fixture(scope="module", autouse=True)
def pool_of_the_client() -> None:
    """Start the threads that the `langsmith` package shares among all clients, and never ends."""
    for done in [LANGSMITH_CLIENT_THREAD_POOL.submit(time.sleep, 0.05) for _ in range(os.cpu_count() or 1)]:
        done.result()


EXPECTED = """
    invoke_agent writer
      execute_tool search
      chat gpt-4o
    invoke_agent critic !
"""


async def work(forge: RecordedForge) -> None:
    """Two traces, the second of which fails."""
    async with forge:
        with forge.span("writer", kind="agent"):
            with forge.span("search", kind="tool"):
                pass
            with forge.span("chat gpt-4o", kind="llm"):
                pass
        with pytest.raises(ValueError, match="no"), forge.span("critic", kind="agent"):
            raise ValueError("no")


async def test_traces_are_told_by_their_outline(recorded_forge: RecordedForge) -> None:
    """The outline passes where it is right, and its nodes lead to the spans."""
    await work(recorded_forge)
    writer, critic = recorded_forge.assert_trace(EXPECTED)
    assert writer.find("execute_tool search").item.attributes["gen_ai.tool.name"] == "search"
    assert critic.is_error
    assert outline(recorded_forge.traces()) == textwrap.dedent(EXPECTED).strip()
    with pytest.raises(AssertionError, match="there is no 'x' in\ninvoke_agent critic"):
        critic.find("x")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (EXPECTED.replace("search", "look up"), r"-  execute_tool look up\n\+  execute_tool search"),
        (EXPECTED.replace(" !", ""), r"-invoke_agent critic\n\+invoke_agent critic !"),
        (EXPECTED.replace("      chat", "    chat"), r"-chat gpt-4o\n\+  chat gpt-4o"),
    ],
)
async def test_another_trace_fails_with_the_difference(recorded_forge: RecordedForge, wrong: str, told: str) -> None:
    """A name, an error, a parent: each is seen."""
    await work(recorded_forge)
    with pytest.raises(AssertionError, match=told):
        recorded_forge.assert_trace(wrong)


async def test_siblings_in_any_order(recorded_forge: RecordedForge) -> None:
    """Where they run side by side, their order is nobody's business."""
    await work(recorded_forge)
    other = EXPECTED.replace(
        "      execute_tool search\n      chat gpt-4o\n", "      chat gpt-4o\n      execute_tool search\n"
    )
    recorded_forge.assert_trace(other, in_order=False)
    with pytest.raises(AssertionError, match="another one"):
        recorded_forge.assert_trace(other)
    with pytest.raises(AssertionError, match="another one"):
        recorded_forge.assert_trace(other.replace("chat", "call"), in_order=False)


async def test_ids_are_the_same_in_every_run(recorded_forge: RecordedForge) -> None:
    """They count upwards, so that a test can name them."""
    await work(recorded_forge)
    ids = [format_span_id(span.get_span_context().span_id) for span in recorded_forge.spans]  # type: ignore[union-attr]
    assert ids == [f"{number:016x}" for number in (2, 3, 1, 4)]


async def test_both_fixtures_work_together(recorded_forge: RecordedForge, langsmith_stand_in: LangSmithStandIn) -> None:
    """What is recorded is what LangSmith shows."""
    await work(recorded_forge)
    assert_trace(langsmith_stand_in.runs(), EXPECTED)


async def test_a_developers_key_is_not_used(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No test of a service sends its traces anywhere by accident."""
    monkeypatch.setenv("LANGSMITH_API_KEY", "real")
    forge: RecordedForge = request.getfixturevalue("recorded_forge")
    await work(forge)
    assert forge.telemetry.exports() == {}


@pytest.mark.parametrize("batching", [True, False])
def test_runs_of_the_real_client_are_understood(batching: bool) -> None:
    """Multipart with zstd, and one by one: a tree with inputs, outputs, errors, tags and feedback."""
    with LangSmithStandIn(api_key="key") as server:
        client = Client(api_url=server.url, api_key="key", auto_batch_tracing=batching)
        who = {"session_id": "s", "user_id": "ada"}
        with (
            tracing_context(enabled=True, client=client, project_name="p"),
            trace("above", inputs={"a": 1}, metadata=who, tags=["t"]) as root,
        ):
            with trace("below", run_type="llm"):
                pass
            with pytest.raises(ValueError, match="broken"), trace("broken", run_type="tool"):
                raise ValueError("broken")
            root.end(outputs={"b": 2})
        client.flush()
        project = client.read_project(project_name="p")
        client.create_feedback(root.id, "score", score=1, trace_id=root.id, session_id=project.id)
        client.flush()
        nodes = assert_trace(server.runs(), "above\n  below\n  broken !")
        found: Any = nodes[0].item
        assert (found.inputs, found.outputs, found.thread, found.user) == ({"a": 1}, {"b": 2}, "s", "ada")
        assert (found.tags, found.project, nodes[0].find("below").item.type) == (("t",), "p", "llm")
        assert [item["key"] for item in server.feedback] == ["score"]
        if batching:
            assert server.outcomes.keys() == {"200"}
            assert any(item.path == "/runs/multipart" for item in server.received)
        assert len(trace_trees(server.runs())) == 1
        client.cleanup()
