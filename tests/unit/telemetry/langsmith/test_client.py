"""The real `langsmith` client against the stand-in server."""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from langsmith.utils import LangSmithError
from opentelemetry.sdk.trace import TracerProvider

from forge_otel.telemetry.langsmith.client import LangSmithClient
from forge_otel.telemetry.langsmith.exporter import LangSmithProcessor
from forge_otel.telemetry.langsmith.settings import LangSmithOptions
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn


@pytest.fixture
def langsmith() -> Iterator[LangSmithStandIn]:
    """A server that accepts one key."""
    with LangSmithStandIn(api_key="key") as server:
        yield server


def options(server: LangSmithStandIn) -> LangSmithOptions:
    """Return options for the project `buttons` on `server`."""
    return LangSmithOptions(api_key="key", endpoint=server.url, project="buttons")


def export_a_run(server: LangSmithStandIn) -> None:
    """Send one run, which creates the project."""
    processor = LangSmithProcessor(options(server), run_filter=lambda _span: True)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("run").end()
    provider.shutdown()


def test_the_project_is_found_after_its_first_run(langsmith: LangSmithStandIn) -> None:
    """Before, there is none; afterwards its URL is known."""
    client = LangSmithClient(options(langsmith))
    assert client.find_project() is None
    export_a_run(langsmith)
    project = client.find_project()
    assert project is not None
    assert project.url.endswith(f"/projects/p/{project.id}")


def test_a_repeated_score_has_the_same_id(langsmith: LangSmithStandIn) -> None:
    """LangSmith replaces a score with the same id, so a retry adds none."""
    client = LangSmithClient(options(langsmith))
    export_a_run(langsmith)
    project = client.find_project()
    assert project is not None
    for score_id in ("g1", "g1", "g2"):
        client.score(
            project, UUID(int=7), key="quality_score", score=0.5, score_id=score_id, started_at=datetime.now(UTC)
        )
    first, again, other = (item["id"] for item in langsmith.feedback)
    assert first == again != other


def test_a_score_that_is_not_accepted_raises(langsmith: LangSmithStandIn) -> None:
    """The caller learns of the failure and can try again."""
    client = LangSmithClient(options(langsmith))
    export_a_run(langsmith)
    project = client.find_project()
    assert project is not None
    langsmith.fail_all(LangSmithFault(status=503))
    with pytest.raises(LangSmithError):
        client.score(project, UUID(int=7), key="k", score=1.0, score_id="g", started_at=datetime.now(UTC))
    assert langsmith.feedback == []
