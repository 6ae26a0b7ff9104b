"""OTLP export of traces: outages, restarts, sampling and the `OTEL_EXPORTER_OTLP_*` variables."""

import json
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from tests.unit.telemetry.bridge import eventually, fast_export
from tests.unit.telemetry.recorder import Recorder

from forge_otel.errors import ConfigurationError
from forge_otel.names import Metric
from forge_otel.settings import Settings
from forge_otel.telemetry.export.otlp import OtlpOptions, OtlpProcessor
from forge_otel.telemetry.export.spool import SpoolOptions
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.spans.decorators import Spans
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

PREFIX = "OTEL_EXPORTER_OTLP_"


@pytest.fixture
def endpoint() -> Iterator[LangSmithStandIn]:
    """A server that accepts spans."""
    with LangSmithStandIn() as server:
        yield server


def url(endpoint: LangSmithStandIn) -> str:
    """Return the traces URL of the server."""
    return f"{endpoint.url}/otel/v1/traces"


def end_spans(processor: OtlpProcessor, count: int, *, first: int = 0) -> None:
    """End spans with numbers for names."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    for number in range(first, first + count):
        tracer.start_span(str(number)).end()


def arrived(endpoint: LangSmithStandIn) -> Counter[str]:
    """Return the names of the accepted spans, and how often each arrived."""
    return Counter(span.name for span in endpoint.spans)


def test_an_outage_longer_than_the_queue_loses_nothing(endpoint: LangSmithStandIn, tmp_path: Path) -> None:
    """More spans than the queue may hold wait on disk, and each arrives once."""
    export = fast_export(spool=SpoolOptions(directory=tmp_path), max_queue_size=200)
    processor = OtlpProcessor(OtlpOptions(url=url(endpoint)), export=export)
    endpoint.fail(LangSmithFault())
    for first in range(0, 1_000, 100):
        end_spans(processor, 100, first=first)
        eventually(lambda so_far=first + 100: processor.stats().spooled == so_far)
    endpoint.recover()
    assert processor.force_flush(20_000)
    assert arrived(endpoint) == Counter(str(number) for number in range(1_000))
    stats = processor.stats()
    assert (stats.produced, stats.exported, stats.waiting, dict(stats.dropped)) == (1_000, 1_000, 0, {})
    processor.shutdown()


def test_spooled_spans_are_sent_by_the_next_start(endpoint: LangSmithStandIn, tmp_path: Path) -> None:
    """Spans that cannot be sent until shutdown stay on disk."""
    options, export = OtlpOptions(url=url(endpoint)), fast_export(spool=SpoolOptions(directory=tmp_path))
    endpoint.fail(LangSmithFault())
    first = OtlpProcessor(options, export=export)
    end_spans(first, 50)
    first.shutdown()
    assert arrived(endpoint) == Counter()
    endpoint.recover()
    second = OtlpProcessor(options, export=export)
    eventually(lambda: len(endpoint.spans) == 50)
    second.shutdown()
    assert arrived(endpoint) == Counter(str(number) for number in range(50))


def test_unsampled_spans_are_not_sent(endpoint: LangSmithStandIn) -> None:
    """Spans that the SDK's sampler discarded are not exported."""
    processor = OtlpProcessor(OtlpOptions(url=url(endpoint)))
    provider = TracerProvider(sampler=TraceIdRatioBased(0.0), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("unseen").end()
    end_spans(processor, 1)
    assert processor.force_flush(10_000)
    assert arrived(endpoint) == {"0": 1}
    processor.shutdown()


def test_the_variables_are_read_as_opentelemetry_reads_them() -> None:
    """The path is appended to the common endpoint only; variables for traces take precedence."""
    found = OtlpOptions.from_env({f"{PREFIX}ENDPOINT": "http://there:4318/", f"{PREFIX}HEADERS": "a=b,c=d%20e"})
    assert (found.url, found.headers, found.timeout_s) == ("http://there:4318/v1/traces", {"a": "b", "c": "d e"}, 10)
    found = OtlpOptions.from_env(
        {
            f"{PREFIX}ENDPOINT": "http://there:4318",
            f"{PREFIX}TRACES_ENDPOINT": "https://elsewhere/x",
            f"{PREFIX}TIMEOUT": "3",
            f"{PREFIX}TRACES_TIMEOUT": "4.5",
        }
    )
    assert (found.url, found.timeout_s) == ("https://elsewhere/x", 4.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ENDPOINT": "there:4317"},
        {"ENDPOINT": "grpc://there:4317"},
        {"ENDPOINT": "http://there:4318", "TIMEOUT": "soon"},
        {"ENDPOINT": "http://there:4318", "TIMEOUT": "-1"},
        {"ENDPOINT": "https://there:4318", "CERTIFICATE": "/nowhere/ca.pem"},
    ],
    ids=json.dumps,
)
def test_invalid_variables_are_rejected(wrong: dict[str, str]) -> None:
    """The message names the variable and contains no header."""
    with pytest.raises(ConfigurationError, match=PREFIX) as caught:
        OtlpOptions.from_env({f"{PREFIX}{name}": value for name, value in wrong.items()} | {f"{PREFIX}HEADERS": "k=s3"})
    assert "s3" not in str(caught.value)


def test_headers_are_not_in_the_repr() -> None:
    """Headers contain keys."""
    assert "s3cret" not in repr(OtlpOptions(url="http://there", headers={"authorization": "s3cret"}))


def test_an_unsupported_protocol_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the protocol that is used instead of gRPC."""
    OtlpOptions.from_env({f"{PREFIX}ENDPOINT": "http://there:4318", f"{PREFIX}PROTOCOL": "grpc"})
    assert "http/protobuf" in caplog.text


def test_a_certificate_replaces_the_trusted_authorities(tmp_path: Path) -> None:
    """The TLS context trusts the authority of the file only."""
    authority = next(iter(ssl.create_default_context().get_ca_certs(binary_form=True)), None)
    if authority is None:
        pytest.skip("the system has no trusted authorities")
    file = tmp_path / "ca.pem"
    file.write_text(ssl.DER_cert_to_PEM_cert(authority))
    context = OtlpOptions(url="https://there", certificate=str(file)).tls()
    assert context is not None
    assert [len(context.get_ca_certs()), context.verify_mode] == [1, ssl.CERT_REQUIRED]


def test_each_destination_has_its_own_counts_and_spool(
    endpoint: LangSmithStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OTLP and LangSmith are counted separately, and shut down within one timeout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{PREFIX}TRACES_ENDPOINT", url(endpoint))
    monkeypatch.setenv("LANGSMITH_API_KEY", "key")
    monkeypatch.setenv("LANGSMITH_ENDPOINT", endpoint.url)
    recorder = Recorder()
    recorder.close()
    recorder.meters = MeterProvider([reader := InMemoryMetricReader()], shutdown_on_exit=False)
    recorder.reader = reader
    telemetry = Telemetry(Settings(), meter_provider=recorder.meters)
    telemetry.start()
    with Spans(lambda: telemetry.span_recorder).span("writer", kind="agent"):
        pass
    assert recorder.values(Metric.EXPORT_PRODUCED) == {("langsmith",): 1, ("otlp",): 1}
    assert telemetry.shutdown()
    recorder.meters.shutdown()
    assert arrived(endpoint) == {"invoke_agent writer": 2}
    assert {path.name for path in Path(".forge/spool").iterdir() if path.is_dir()} == {"otlp"}
