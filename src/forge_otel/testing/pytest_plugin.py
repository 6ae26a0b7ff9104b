"""Fixtures for tests of services that use forge-otel.

Load them in `conftest.py`::

    pytest_plugins = ["forge_otel.testing.pytest_plugin"]

`recorded_forge` is a Forge whose spans are kept in memory, with the same ids in every run; `langsmith_stand_in` is
a LangSmith that the environment points to.
"""

from collections.abc import Iterator
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from forge_otel.errors import needs
from forge_otel.forge import Forge
from forge_otel.settings import Settings
from forge_otel.telemetry.langsmith.names import LangSmithEnv
from forge_otel.telemetry.providers import Telemetry
from forge_otel.testing.langsmith.server import LangSmithStandIn
from forge_otel.testing.traces import TraceNode, assert_trace, trace_trees

with needs("testing"):
    import pytest

__all__ = ["RecordedForge", "SequentialIds", "langsmith_stand_in", "recorded_forge"]


class SequentialIds(IdGenerator):
    """Trace and span ids that count upwards, so that a test sees the same ones in every run."""

    def __init__(self) -> None:
        self._traces = self._spans = 0

    def generate_span_id(self) -> int:
        """Return 1, 2, 3 …"""
        self._spans += 1
        return self._spans

    def generate_trace_id(self) -> int:
        """Return 1, 2, 3 …"""
        self._traces += 1
        return self._traces


class RecordedForge(Forge):
    """A Forge without servers and files, whose spans are kept.

    Args:
        settings: contents are captured, and nothing is archived or stored, unless it says so.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        chosen = settings or Settings(
            archive_url=None, database_url=None, outbox_dir=None, trace_spool_dir=None, capture_content=True
        )
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(
            id_generator=SequentialIds(), resource=Resource.get_empty(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        super().__init__(chosen, telemetry=Telemetry(chosen, tracer_provider=self._provider))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The spans that have ended, in the order of their end."""
        return self._exporter.get_finished_spans()

    def traces(self) -> list[TraceNode]:
        """Return the traces as trees."""
        return trace_trees(self.spans)

    def assert_trace(self, expected: str, *, in_order: bool = True) -> list[TraceNode]:
        """Fail with a difference where the traces are not as `expected`; see `assert_trace`."""
        return assert_trace(self.spans, expected, in_order=in_order)


@pytest.fixture
def recorded_forge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RecordedForge:
    """A Forge whose spans are kept; enter it with `async with`, or hand it to the middleware.

    No test sends to the LangSmith that a developer's machine knows: only `langsmith_stand_in` is heard.
    """
    if "langsmith_stand_in" in request.fixturenames:
        request.getfixturevalue("langsmith_stand_in")
    else:
        _forget_langsmith(monkeypatch)
    return RecordedForge()


@pytest.fixture
def langsmith_stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LangSmithStandIn]:
    """A LangSmith on this machine that the `LANGSMITH_*` variables point to."""
    _forget_langsmith(monkeypatch)
    monkeypatch.setenv("FORGE_TRACE_SPOOL_DIR", str(tmp_path / "spool"))
    with LangSmithStandIn(api_key="stand-in") as server:
        monkeypatch.setenv("LANGSMITH_API_KEY", "stand-in")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.url)
        yield server


def _forget_langsmith(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in vars(LangSmithEnv).values():
        for name in names if isinstance(names, tuple) else ():
            monkeypatch.delenv(name, raising=False)
