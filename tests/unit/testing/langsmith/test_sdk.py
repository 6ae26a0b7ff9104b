"""Requests of the real `langsmith` client to the stand-in."""

import os
import time
from typing import Any

import pytest
from langsmith import Client
from langsmith._internal._background_thread import LANGSMITH_CLIENT_THREAD_POOL
from langsmith.run_helpers import trace, tracing_context

from forge_otel.testing.langsmith.server import LangSmithStandIn
from forge_otel.testing.traces import assert_trace, trace_trees


@pytest.fixture(scope="module", autouse=True)
def client_threads() -> None:
    """Start the threads that all clients of the `langsmith` package share and never end."""
    for done in [LANGSMITH_CLIENT_THREAD_POOL.submit(time.sleep, 0.05) for _ in range(os.cpu_count() or 1)]:
        done.result()


@pytest.mark.parametrize("batching", [True, False])
def test_runs_of_the_real_client_are_understood(batching: bool) -> None:
    """Multipart with zstd and single runs: a tree with inputs, outputs, errors, tags and feedback."""
    with LangSmithStandIn(api_key="key") as server:
        client = Client(api_url=server.url, api_key="key", auto_batch_tracing=batching)
        identity = {"session_id": "s", "user_id": "ada"}
        with (
            tracing_context(enabled=True, client=client, project_name="p"),
            trace("parent", inputs={"a": 1}, metadata=identity, tags=["t"]) as root,
        ):
            with trace("child", run_type="llm"):
                pass
            with pytest.raises(ValueError, match="broken"), trace("broken", run_type="tool"):
                raise ValueError("broken")
            root.end(outputs={"b": 2})
        client.flush()
        project = client.read_project(project_name="p")
        client.create_feedback(root.id, "score", score=1, trace_id=root.id, session_id=project.id)
        client.flush()
        nodes = assert_trace(server.runs(), "parent\n  child\n  broken !")
        found: Any = nodes[0].item
        assert (found.inputs, found.outputs, found.thread, found.user) == ({"a": 1}, {"b": 2}, "s", "ada")
        assert (found.tags, found.project, nodes[0].find("child").item.type) == (("t",), "p", "llm")
        assert [item["key"] for item in server.feedback] == ["score"]
        if batching:
            assert server.outcomes.keys() == {"200"}
            assert any(item.path == "/runs/multipart" for item in server.received)
        assert len(trace_trees(server.runs())) == 1
        client.cleanup()
