"""Fixtures for tests of services that use forge-otel.

Load them in `conftest.py`::

    pytest_plugins = ["forge_otel.testing.pytest_plugin"]

`recorded_forge` is a Forge that records its spans in memory, with reproducible ids. `langsmith_stand_in` is a LangSmith
server that the environment points to.
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


# From 1, because an id of zeros is invalid (W3C Trace Context, 3.2.2.3).
class SequentialIds(IdGenerator):
    """Trace and span ids that count from 1, so that they are the same in every run of a test."""

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
    """A Forge that records its spans in memory.

    Args:
        settings: None captures contents and uses no archive, database, outbox or spool.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        chosen = settings or Settings(
            archive_url=None, database_url=None, outbox_dir=None, trace_spool_dir=None, capture_content=True
        )
        self._exporter = InMemorySpanExporter()
        # The SDK's default resource contains its version, which would be part of every recorded span; its exit handler
        # would keep the provider of each test until the process ends.
        self._provider = TracerProvider(
            id_generator=SequentialIds(), resource=Resource.get_empty(), shutdown_on_exit=False
        )
        # Synchronous, so that a span is recorded as soon as it has ended.
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        super().__init__(chosen, telemetry=Telemetry(chosen, tracer_provider=self._provider))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The ended spans, in the order of their end."""
        return self._exporter.get_finished_spans()

    def traces(self) -> list[TraceNode]:
        """Return the trees of the ended spans."""
        return trace_trees(self.spans)

    def assert_trace(self, expected: str, *, in_order: bool = True) -> list[TraceNode]:
        """Compare the traces with an outline; see `forge_otel.testing.traces.assert_trace`."""
        return assert_trace(self.spans, expected, in_order=in_order)


@pytest.fixture
def recorded_forge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RecordedForge:
    """A Forge that records its spans; enter it with `async with`, or pass it to the middleware."""
    # The LANGSMITH_* variables of a developer's machine are removed: no test sends to the real LangSmith.
    if "langsmith_stand_in" in request.fixturenames:
        request.getfixturevalue("langsmith_stand_in")
    else:
        _unset_langsmith(monkeypatch)
    return RecordedForge()


@pytest.fixture
def langsmith_stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LangSmithStandIn]:
    """A LangSmith stand-in that the `LANGSMITH_*` variables point to."""
    _unset_langsmith(monkeypatch)
    # A spool outlives its process: spans of an earlier run would be sent to this stand-in.
    monkeypatch.setenv("FORGE_TRACE_SPOOL_DIR", str(tmp_path / "spool"))
    with LangSmithStandIn(api_key="stand-in") as server:
        monkeypatch.setenv("LANGSMITH_API_KEY", "stand-in")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.url)
        yield server


def _unset_langsmith(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in vars(LangSmithEnv).values():
        for name in names if isinstance(names, tuple) else ():
            monkeypatch.delenv(name, raising=False)
