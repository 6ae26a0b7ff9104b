"""Lifecycle of tracing and metrics: providers, span processors, metric readers and exporters of one Forge.

Global OpenTelemetry providers that the application has set are used, with our span processors and metric readers
added to them. Otherwise providers are created and made global; OpenTelemetry cannot unset them, so that they stay for
the next `Telemetry` of the process. With an explicitly given provider the globals are neither read nor set.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

from opentelemetry import metrics, trace
from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeter
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import TracerProvider

from forge_otel.errors import MissingExtra
from forge_otel.names import SCOPE, Attr, Metric
from forge_otel.settings import Settings
from forge_otel.telemetry.export.accounting import ExportStats, export_points
from forge_otel.telemetry.export.processor import ExportOptions, ExportProcessor, shut_down_concurrently
from forge_otel.telemetry.export.spool import SpoolOptions
from forge_otel.telemetry.genai.model_calls import ModelCallReader
from forge_otel.telemetry.langsmith.names import LangSmithEnv
from forge_otel.telemetry.metrics.active_requests import ActiveRequests
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.telemetry.metrics.prometheus import PrometheusPage
from forge_otel.telemetry.processor_hub import AcceptsProcessors, ProcessorHub
from forge_otel.telemetry.recent_traces import RecentTraces
from forge_otel.telemetry.sampling.recording_sampler import RecordingSampler
from forge_otel.telemetry.sampling.tail import SamplingRules, TailSampler, sampling_instruments
from forge_otel.telemetry.spans.identity import IdentityProcessor
from forge_otel.telemetry.spans.proxy_tracer import ProxyTracer
from forge_otel.telemetry.spans.span_handle import SpanRecorder

__all__ = ["Telemetry"]

_logger = logging.getLogger(__name__)

# Spans queued for an exporter; one with captured contents may take some ten kilobytes.
_MAX_WAITING: Final = 20_000
_MAX_WAITING_CAPTURED: Final = 5_000

P = TypeVar("P", TracerProvider, MeterProvider)


class OwnTracerProvider(sdk_trace.TracerProvider):
    """A tracer provider created here, by which class a later `Telemetry` recognizes the global one."""


class Telemetry:
    """Tracer, instruments, metrics page and recent traces of one Forge.

    Its parts can be passed on before `start`; they record only between `start` and `shutdown`.

    Args:
        settings: content capture, model prices, component types, sampling and export limits.
        resource: of the providers created here.
        tracer_provider: used instead of the global one.
        meter_provider: used instead of the global one.
        span_processors: receive the spans of sampled traces from `start`, and are shut down by `shutdown`.
        metric_readers: collect from `start`, and are shut down by `shutdown`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        resource: Resource | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        span_processors: Sequence[SpanProcessor] = (),
        metric_readers: Sequence[MetricReader] = (),
    ) -> None:
        self.settings = settings
        self.tracer: Final = ProxyTracer()
        self.instruments: Final = Instruments(component_types=settings.component_types)
        self.model_calls: Final = ModelCallReader(self.instruments, prices=settings.prices)
        self.unrecorded: Final = self.model_calls.unrecorded
        self.span_recorder: Final = SpanRecorder(
            tracer=self.tracer,
            instruments=self.instruments,
            model_calls=self.model_calls,
            captures_content=settings.capture_content,
        )
        self.prometheus: Final = PrometheusPage()
        self.active_requests: Final = ActiveRequests()
        # Queued spans hold their contents, hence a shorter queue if these are captured.
        self.recent_traces: Final = RecentTraces(max_queued=1000 if settings.capture_content else 4000)
        self._meter: Meter | None = None
        self._queues: Mapping[str, ExportProcessor] = {}
        self._resource = resource
        self._given = (tracer_provider, meter_provider)
        self._span_processors = tuple(span_processors)
        self._metric_readers = tuple(metric_readers)
        self._lock = threading.Lock()
        # Undone at once by `shutdown`, and within its deadline; both in reverse order.
        self._attached: ExitStack | None = None
        self._closing = ExitStack()

    @property
    def is_open(self) -> bool:
        """Return whether spans and metrics are recorded."""
        return self._attached is not None

    @property
    def meter(self) -> Meter:
        """The meter for instruments of the application; a no-op while the telemetry is closed."""
        return self._meter or NoOpMeter(SCOPE)

    def exports(self) -> Mapping[str, ExportStats]:
        """Return the counts of exported, queued and dropped spans by destination."""
        return {destination: queue.stats() for destination, queue in self._queues.items()}

    def start(self) -> None:
        """Find or create the providers and attach to them; takes about 0.5 s, so call it off the event loop."""
        with self._lock:
            if self._attached is not None:
                return
            self.model_calls.warm()
            with ExitStack() as attaching:
                self._attach(attaching)
                self._attached = attaching.pop_all()

    def shutdown(self, timeout_s: float | None = None) -> bool:
        """Detach from the providers and flush the exporters.

        Args:
            timeout_s: deadline in seconds; by default `shutdown_timeout_s` of the settings.

        Returns:
            False if the deadline has passed; the flush then continues in a daemon thread.
        """
        with self._lock:
            attached, self._attached = self._attached, None
            closing, self._closing = self._closing, ExitStack()
        if attached is None:
            return True
        attached.close()
        # A daemon thread: an exporter that hangs must not delay the exit of the process beyond the deadline.
        thread = threading.Thread(target=_close, args=(closing,), name="forge-telemetry-shutdown", daemon=True)
        thread.start()
        thread.join(self.settings.shutdown_timeout_s if timeout_s is None else timeout_s)
        return not thread.is_alive()

    def _attach(self, attaching: ExitStack) -> None:
        tracer_provider, is_own = self._find_tracer_provider()
        meter_provider = self._find_meter_provider()
        release = version("forge-otel")

        self._meter = meter_provider.get_meter(SCOPE, release)
        attaching.callback(setattr, self, "_meter", None)
        self._attach_readers(meter_provider, attaching)
        self.instruments.bind(self._meter)
        attaching.callback(self.instruments.unbind)
        attaching.callback(self.instruments.observe(Metric.PAGE_ADAPTED, self._adapted))
        attaching.callback(self.instruments.observe(Metric.HTTP_ACTIVE, self.active_requests.observe))

        queues = {**(self._otlp() if is_own else {}), **self._langsmith()}
        self._queues = queues
        attaching.callback(setattr, self, "_queues", {})
        for destination, queue in queues.items():
            attaching.callback(self.instruments.observe_together(queue.stats, export_points(destination)))
        exporters = (*self._span_processors, *queues.values())
        self._closing.callback(shut_down_concurrently, exporters)
        # First, because the processors after it read the identity.
        processors = (IdentityProcessor(), self.model_calls, self.recent_traces, *self._sampled(exporters, attaching))
        self._attach_processors(tracer_provider, processors, attaching)
        self.tracer.bind(tracer_provider.get_tracer(SCOPE, release))
        attaching.callback(self.tracer.bind, None)

    def _sampled(self, exporters: Sequence[SpanProcessor], attaching: ExitStack) -> Sequence[SpanProcessor]:
        """Return the processors that feed `exporters`: a tail sampler, or themselves if every trace is kept."""
        settings = self.settings
        if settings.trace_sample_rate >= 1:
            return exporters
        rules = SamplingRules(
            rate=settings.trace_sample_rate,
            slow_s=settings.trace_slow_s,
            expensive_usd=settings.trace_expensive_usd,
            max_bytes=settings.trace_buffer_max_bytes,
        )
        sampler = TailSampler(rules)
        for exporter in exporters:
            sampler.downstream.attach(exporter)
        # Runs before the exporters are shut down: callbacks run in reverse order.
        self._closing.callback(sampler.drain)
        self.model_calls.on_cost = sampler.note_cost
        attaching.callback(setattr, self.model_calls, "on_cost", None)
        for instrument, observe in sampling_instruments(sampler.stats):
            attaching.callback(self.instruments.observe(instrument, observe))
        return (sampler,)

    def _attach_processors(
        self, provider: TracerProvider, processors: Sequence[SpanProcessor], attaching: ExitStack
    ) -> None:
        hub = ProcessorHub.of(provider)
        if hub is None:
            _logger.warning(
                "tracer provider %s accepts no span processors: model calls and recent traces are not recorded",
                type(provider).__name__,
            )
            return
        for processor in processors:
            hub.attach(processor)
            attaching.callback(hub.detach, processor)

    def _attach_readers(self, provider: MeterProvider, attaching: ExitStack) -> None:
        if not isinstance(provider, sdk_metrics.MeterProvider):
            _logger.warning(
                "meter provider %s accepts no metric readers: the metrics page stays empty", type(provider).__name__
            )
            return
        page = self.prometheus.reader()
        provider.add_metric_reader(page)
        attaching.callback(provider.remove_metric_reader, page)
        for reader in self._metric_readers:
            provider.add_metric_reader(reader)
            self._closing.callback(provider.remove_metric_reader, reader)

    def _adapted(self) -> list[tuple[float, dict[str, str | bool | int | float]]]:
        return [(count, {Attr.REASON: reason}) for reason, count in self.prometheus.adapted.items()]

    def _otlp(self) -> "dict[str, ExportProcessor]":
        if not _wants_otlp():
            return {}
        # Imported on use, because it needs an optional package.
        try:
            from forge_otel.telemetry.export.otlp import OtlpOptions, OtlpProcessor
        except MissingExtra as exc:
            _logger.warning("traces are not sent to the OTLP endpoint: %s", exc.faults[0])
            return {}
        return {"otlp": OtlpProcessor(OtlpOptions.from_env(os.environ), export=self._export_options("otlp"))}

    def _langsmith(self) -> "dict[str, ExportProcessor]":
        if not any(os.environ.get(name) for name in LangSmithEnv.API_KEY):
            _logger.info("traces are not sent to LangSmith: no %s", LangSmithEnv.API_KEY[0])
            return {}
        try:
            from forge_otel.telemetry.langsmith.exporter import from_env
        except MissingExtra as exc:
            _logger.warning("traces are not sent to LangSmith: %s", exc.faults[0])
            return {}
        processor = from_env(
            self.model_calls.price, error_texts=self.settings.capture_content, export=self._export_options()
        )
        return {} if processor is None else {"langsmith": processor}

    def _export_options(self, folder: str = "") -> ExportOptions:
        """Return the limits of an exporter, with its own folder in the spool directory."""
        spool = self.settings.trace_spool_dir
        return ExportOptions(
            # The provider's own shutdown has to fit into the same timeout.
            shutdown_timeout_s=self.settings.shutdown_timeout_s * 0.6,
            max_queue_size=_MAX_WAITING_CAPTURED if self.settings.capture_content else _MAX_WAITING,
            spool=SpoolOptions(
                directory=None if spool is None else Path(spool, folder).absolute(),
                max_bytes=self.settings.trace_spool_max_bytes,
                max_age_s=self.settings.trace_spool_max_age_s,
            ),
        )

    def _find_tracer_provider(self) -> tuple[TracerProvider, bool]:
        """Return the tracer provider, and whether it was created here."""
        given, other = self._given
        if given is not None:
            return given, False
        if other is not None:
            own = self._make_tracer_provider()
            self._closing.callback(own.shutdown)
            return own, True
        found = trace.get_tracer_provider()
        if not isinstance(found, AcceptsProcessors):
            own = self._make_tracer_provider()
            found = _set_global(own, trace.set_tracer_provider, trace.get_tracer_provider)
        return found, isinstance(found, OwnTracerProvider)

    def _find_meter_provider(self) -> MeterProvider:
        other, given = self._given
        if given is not None:
            return given
        if other is not None:
            own = self._make_meter_provider()
            self._closing.callback(own.shutdown)
            return own
        found = metrics.get_meter_provider()
        if isinstance(found, sdk_metrics.MeterProvider):
            return found
        return _set_global(self._make_meter_provider(), metrics.set_meter_provider, metrics.get_meter_provider)

    def _make_tracer_provider(self) -> OwnTracerProvider:
        created = OwnTracerProvider(resource=self._resource)
        # The sampler that OTEL_TRACES_SAMPLER names still decides; ours only records more spans.
        created.sampler = RecordingSampler(created.sampler, rate=self.settings.trace_sample_rate)
        return created

    def _make_meter_provider(self) -> sdk_metrics.MeterProvider:
        return sdk_metrics.MeterProvider(resource=self._resource)


def _set_global(own: P, set_global: Callable[[P], None], get_global: Callable[[], P]) -> P:
    """Make `own` the global provider and return the global provider."""
    set_global(own)
    # Not necessarily `own`: another thread, or a no-op provider, may have been set first, and cannot be replaced.
    return get_global()


def _wants_otlp() -> bool:
    endpoints = (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
    has_endpoint = any(os.environ.get(name) for name in endpoints)
    exporter = os.environ.get(OTEL_TRACES_EXPORTER, "").strip().lower()
    disabled = os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"
    return has_endpoint and not disabled and exporter in {"", "otlp"}


def _close(closing: ExitStack) -> None:
    try:
        closing.close()
    except Exception:
        _logger.exception("telemetry could not be closed cleanly")
