"""OTLP/HTTP export of traces, configured by the `OTEL_EXPORTER_OTLP_*` variables.

Deliberate divergences from OpenTelemetry's `BatchSpanProcessor` and `OTLPSpanExporter`, which drop a batch after ten
seconds of retries and the oldest spans of a full queue without counting them: batches wait on disk, survive the process
and are sent again, and every span is counted. A request whose response was lost is repeated with the same span ids.
Bodies are always compressed with gzip, which every OTLP server has to support.
"""

import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Final, Self
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.util.re import parse_env_headers

from forge_otel.errors import ConfigurationError
from forge_otel.telemetry.export.http import HttpTransport
from forge_otel.telemetry.export.otlp_body import encode, split
from forge_otel.telemetry.export.processor import ExportOptions, ExportProcessor
from forge_otel.telemetry.export.sender import RetryPolicy

__all__ = ["OtlpOptions", "OtlpProcessor"]

_logger = logging.getLogger(__name__)

_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_PROTOCOL: Final = "http/protobuf"
_PATH: Final = "/v1/traces"
# The default of OTEL_BSP_MAX_EXPORT_BATCH_SIZE.
_MAX_BATCH_SIZE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpOptions:
    """An OTLP endpoint for spans.

    Args:
        url: URL with its path.
        headers: sent with each request.
        timeout_s: limit of one request in seconds.
        certificate: file with the trusted authorities; None uses the system's.
        client_certificate: file with the client certificate.
        client_key: file with its key.

    Raises:
        ConfigurationError: the endpoint is not an HTTP URL, the timeout is not positive, or a certificate cannot be
            read.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None

    def __post_init__(self) -> None:
        faults = []
        if urlsplit(self.url).scheme not in {"http", "https"} or not urlsplit(self.url).hostname:
            faults.append(f"{_PREFIX}ENDPOINT is not an http:// or https:// URL")
        if not 0 < self.timeout_s < float("inf"):
            faults.append(f"{_PREFIX}TIMEOUT is {self.timeout_s}; it must be above 0")
        try:
            self.tls()
        except (OSError, ValueError) as exc:
            faults.append(f"{_PREFIX}CERTIFICATE, _CLIENT_CERTIFICATE or _CLIENT_KEY cannot be read: {exc}")
        if faults:
            raise ConfigurationError(faults)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables; `OTEL_EXPORTER_OTLP_TRACES_…` takes precedence over `OTEL_EXPORTER_OTLP_…`.

        Raises:
            ConfigurationError: a value is invalid.
        """

        def read(name: str) -> str:
            return environ.get(f"{_PREFIX}TRACES_{name}", "").strip() or environ.get(f"{_PREFIX}{name}", "").strip()

        protocol = read("PROTOCOL") or _PROTOCOL
        if protocol != _PROTOCOL:
            _logger.warning(
                "protocol %s=%.32s is not supported, spans are sent over %s", f"{_PREFIX}PROTOCOL", protocol, _PROTOCOL
            )
        # The path is appended to the common endpoint only (OpenTelemetry, "OTLP Exporter Configuration").
        url = environ.get(f"{_PREFIX}TRACES_ENDPOINT", "").strip() or f"{read('ENDPOINT').rstrip('/')}{_PATH}"
        try:
            timeout_s = float(read("TIMEOUT") or 10)
        except ValueError as exc:
            raise ConfigurationError([f"{_PREFIX}TIMEOUT={read('TIMEOUT')[:32]!r} is not a number of seconds"]) from exc
        return cls(
            url=url,
            headers=parse_env_headers(read("HEADERS"), liberal=True),
            timeout_s=timeout_s,
            certificate=read("CERTIFICATE") or None,
            client_certificate=read("CLIENT_CERTIFICATE") or None,
            client_key=read("CLIENT_KEY") or None,
        )

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context of the certificates, None without certificates."""
        if not self.certificate and not self.client_certificate:
            return None
        context = ssl.create_default_context(cafile=self.certificate)
        if self.client_certificate:
            context.load_cert_chain(self.client_certificate, self.client_key)
        return context

    def transport(self) -> HttpTransport:
        """Return a new transport to the endpoint."""
        fixed = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "User-Agent": f"forge-otel/{version('forge-otel')}",
        }
        return HttpTransport(self.url, {**self.headers, **fixed}, tls=self.tls())


class OtlpProcessor(ExportProcessor):
    """Sends every sampled span to an OTLP endpoint.

    Args:
        options: the endpoint.
        export: limits; requests time out after the endpoint's `timeout_s` unless `export.retry` is given.
        max_batch_size: spans in one request.
    """

    def __init__(
        self, options: OtlpOptions, *, export: ExportOptions | None = None, max_batch_size: int = _MAX_BATCH_SIZE
    ) -> None:
        self.options: Final = options
        limits = export or ExportOptions()
        retry = limits.retry or RetryPolicy(attempt_timeout_s=options.timeout_s)
        super().__init__(
            encode,
            split,
            options.transport(),
            options=replace(limits, retry=retry),
            max_batch_size=max_batch_size,
        )

    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        """Return the sampled spans."""
        sampled = [span for span in spans if (context := span.get_span_context()) and context.trace_flags.sampled]
        self.accounting.mark_sampled_out(len(spans) - len(sampled))
        return sampled

    def reset_after_fork(self) -> None:
        """Replace the connection, which the parent process uses."""
        self._transport = self.options.transport()
