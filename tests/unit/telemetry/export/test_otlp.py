"""Traces to an OTLP endpoint: nothing is lost while it is away, and what is dropped is counted."""

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
from tests.unit.telemetry.bridge import IMPATIENT, eventually
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
    """Any server that takes spans."""
    with LangSmithStandIn() as server:
        yield server


def url(endpoint: LangSmithStandIn) -> str:
    """Where it takes them."""
    return f"{endpoint.url}/otel/v1/traces"


def end_spans(processor: OtlpProcessor, count: int, *, first: int = 0) -> None:
    """End spans with numbers for names."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    for number in range(first, first + count):
        tracer.start_span(str(number)).end()


def arrived(endpoint: LangSmithStandIn) -> Counter[str]:
    """Names of the spans that were taken, and how often."""
    return Counter(span.name for span in endpoint.spans)


def test_an_outage_longer_than_the_queue_loses_nothing(endpoint: LangSmithStandIn, tmp_path: Path) -> None:
    """Spans wait on disk, more than memory may hold, and arrive once each."""
    spool = SpoolOptions(directory=tmp_path)
    processor = OtlpProcessor(OtlpOptions(url=url(endpoint)), policy=IMPATIENT, spool=spool, max_waiting=200)
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


def test_the_next_process_sends_what_this_one_could_not(endpoint: LangSmithStandIn, tmp_path: Path) -> None:
    """What waits at the end waits on disk, for the next start."""
    options, spool = OtlpOptions(url=url(endpoint)), SpoolOptions(directory=tmp_path)
    endpoint.fail(LangSmithFault())
    first = OtlpProcessor(options, policy=IMPATIENT, spool=spool)
    end_spans(first, 50)
    first.shutdown()
    assert arrived(endpoint) == Counter()
    endpoint.recover()
    second = OtlpProcessor(options, policy=IMPATIENT, spool=spool)
    eventually(lambda: len(endpoint.spans) == 50)
    second.shutdown()
    assert arrived(endpoint) == Counter(str(number) for number in range(50))


def test_spans_that_are_not_sampled_stay_here(endpoint: LangSmithStandIn) -> None:
    """They are counted, and nothing of them is sent."""
    processor = OtlpProcessor(OtlpOptions(url=url(endpoint)))
    provider = TracerProvider(sampler=TraceIdRatioBased(0.0), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("unseen").end()
    end_spans(processor, 1)
    assert processor.force_flush(10_000)
    assert arrived(endpoint) == {"0": 1}
    processor.shutdown()


def test_the_variables_are_read_as_opentelemetry_reads_them() -> None:
    """The path is appended to the common endpoint only, and what is said of traces wins."""
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
def test_what_cannot_be_used_is_refused_at_the_start(wrong: dict[str, str]) -> None:
    """The message names the variable, and no header."""
    with pytest.raises(ConfigurationError, match=PREFIX) as caught:
        OtlpOptions.from_env({f"{PREFIX}{name}": value for name, value in wrong.items()} | {f"{PREFIX}HEADERS": "k=s3"})
    assert "s3" not in str(caught.value)


def test_headers_are_in_no_repr() -> None:
    """They hold keys."""
    assert "s3cret" not in repr(OtlpOptions(url="http://there", headers={"authorization": "s3cret"}))


def test_another_protocol_is_not_ignored_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks for gRPC learns that it is HTTP."""
    OtlpOptions.from_env({f"{PREFIX}ENDPOINT": "http://there:4318", f"{PREFIX}PROTOCOL": "grpc"})
    assert "http/protobuf" in caplog.text


def test_certificates_are_used(tmp_path: Path) -> None:
    """A certificate of one's own authority makes a TLS context that trusts nobody else."""
    authority = next(iter(ssl.create_default_context().get_ca_certs(binary_form=True)), None)
    if authority is None:
        pytest.skip("this system trusts no authority")
    file = tmp_path / "ca.pem"
    file.write_text(ssl.DER_cert_to_PEM_cert(authority))
    context = OtlpOptions(url="https://there", certificate=str(file)).tls()
    assert context is not None
    assert [len(context.get_ca_certs()), context.verify_mode] == [1, ssl.CERT_REQUIRED]


def test_both_destinations_have_books(
    endpoint: LangSmithStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is counted for itself, in a folder of its own, and both are closed within one deadline."""
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
    with Spans(lambda: telemetry).span("writer", kind="agent"):
        pass
    assert recorder.values(Metric.EXPORT_PRODUCED) == {("langsmith",): 1, ("otlp",): 1}
    assert telemetry.shutdown()
    recorder.meters.shutdown()
    assert arrived(endpoint) == {"invoke_agent writer": 2}
    assert {path.name for path in Path(".forge/spool").iterdir() if path.is_dir()} == {"otlp"}
