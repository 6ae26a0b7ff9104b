"""A telemetry on separate SDK providers, with access to the recorded spans and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from forge_otel.names import Instrument
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.spans.decorators import Spans
from forge_otel.types import Call, GenerationRequest


async def no_pipeline() -> NoReturn:
    """Stand in for a pipeline in tests that do not run one."""
    raise NotImplementedError


def button_call() -> Call:
    """Return a call for a button."""
    request = GenerationRequest(component_type="button", figma_key="k")
    return Call(request=request, pipeline="p", key="0" * 64, component_id="c", run=no_pipeline)


@dataclass
class Recorder:
    """SDK providers, an open `Telemetry` on them, and the recorded spans and metrics."""

    settings: Settings = field(default_factory=Settings)
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider(self.sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = self.another()
        self.telemetry.start()
        self.spans = Spans(lambda: self.telemetry.span_recorder if self.telemetry.is_open else None)

    def another(self) -> Telemetry:
        """Return one more `Telemetry` on the same providers, not started."""
        return Telemetry(self.settings, tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        """The ended spans, in the order of their end."""
        return self.exporter.get_finished_spans()

    def span(self, name: str) -> ReadableSpan:
        """Return the one span called `name`."""
        (found,) = [span for span in self.ended if span.name == name]
        return found

    def points(self, instrument: Instrument) -> dict[tuple[Any, ...], Any]:
        """Return the points of an instrument by the values of its attributes, None for absent ones."""
        return {
            tuple((point.attributes or {}).get(name) for name in instrument.attributes): point
            for metric in self.metrics()
            if metric.name == instrument.name
            for point in metric.data.data_points
        }

    def values(self, instrument: Instrument) -> Mapping[tuple[Any, ...], float]:
        """Return the values of a counter by the values of its attributes."""
        return {labels: point.value for labels, point in self.points(instrument).items()}

    def metrics(self) -> list[Any]:
        """Return every metric with points."""
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        return [metric for item in data.resource_metrics for scope in item.scope_metrics for metric in scope.metrics]

    def close(self) -> None:
        """Shut down telemetry and providers."""
        self.telemetry.shutdown()
        self.tracers.shutdown()
        self.meters.shutdown()
