"""Traces over OTLP/HTTP, configured by the `OTEL_EXPORTER_OTLP_*` variables.

Deliberate divergences from OpenTelemetry's `BatchSpanProcessor` and `OTLPSpanExporter`, which drop a batch after ten
seconds and the oldest spans when their queue is full, and tell nobody: what the endpoint has not taken waits on disk,
outlives the process and is sent again, and every span is counted. A request whose answer got lost is sent again, under
the same span ids. Bodies are always compressed, which every OTLP server has to understand.
"""

import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, Self
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.util.re import parse_env_headers

from forge_otel.errors import ConfigurationError
from forge_otel.telemetry.export.http import HttpTransport
from forge_otel.telemetry.export.otlp_body import encode, split
from forge_otel.telemetry.export.processor import ExportProcessor
from forge_otel.telemetry.export.sender import RetryPolicy
from forge_otel.telemetry.export.spool import SpoolOptions

__all__ = ["OtlpOptions", "OtlpProcessor"]

logger = logging.getLogger(__name__)

_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_HTTP: Final = "http/protobuf"
_PATH: Final = "/v1/traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpOptions:
    """Where spans go.

    Args:
        url: of the endpoint, with its path.
        headers: sent with each request.
        timeout_s: for one request.
        certificate: file with the authorities that are trusted; those of the system where it is None.
        client_certificate: file with our own certificate.
        client_key: file with its key.

    Raises:
        ConfigurationError: the endpoint is no HTTP URL, the timeout is no time, or a certificate cannot be read.
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
            faults.append(f"{_PREFIX}ENDPOINT is no http:// or https:// URL")
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
        """Read the variables; those with `TRACES` in their names win.

        Raises:
            ConfigurationError: a value cannot be used.
        """

        def read(name: str) -> str:
            return environ.get(f"{_PREFIX}TRACES_{name}", "").strip() or environ.get(f"{_PREFIX}{name}", "").strip()

        protocol = read("PROTOCOL") or _HTTP
        if protocol != _HTTP:
            logger.warning("Spans go out over %s, not over %s=%.32s", _HTTP, f"{_PREFIX}PROTOCOL", protocol)
        url = environ.get(f"{_PREFIX}TRACES_ENDPOINT", "").strip() or f"{read('ENDPOINT').rstrip('/')}{_PATH}"
        try:
            timeout_s = float(read("TIMEOUT") or 10)
        except ValueError as exc:
            raise ConfigurationError([f"{_PREFIX}TIMEOUT={read('TIMEOUT')[:32]!r} is no number of seconds"]) from exc
        return cls(
            url=url,
            headers=parse_env_headers(read("HEADERS"), liberal=True),
            timeout_s=timeout_s,
            certificate=read("CERTIFICATE") or None,
            client_certificate=read("CLIENT_CERTIFICATE") or None,
            client_key=read("CLIENT_KEY") or None,
        )

    def tls(self) -> ssl.SSLContext | None:
        """Return what the certificates ask for, None where there are none."""
        if not self.certificate and not self.client_certificate:
            return None
        context = ssl.create_default_context(cafile=self.certificate)
        if self.client_certificate:
            context.load_cert_chain(self.client_certificate, self.client_key)
        return context

    def post(self) -> HttpTransport:
        """Return a way to the endpoint."""
        fixed = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "User-Agent": f"forge-otel/{version('forge-otel')}",
        }
        return HttpTransport(self.url, {**self.headers, **fixed}, tls=self.tls())


class OtlpProcessor(ExportProcessor):
    """Sends every span that is sampled to an OTLP endpoint.

    Args:
        options: where to.
        policy: how patient it is with the endpoint.
        spool: where spans wait for it.
        max_waiting: spans in memory above which new ones are dropped.
        max_batch: spans in one request.
        shutdown_timeout_s: how long `shutdown` may take.
    """

    def __init__(
        self,
        options: OtlpOptions,
        *,
        policy: RetryPolicy | None = None,
        spool: SpoolOptions | None = None,
        max_waiting: int = 10_000,
        max_batch: int = 512,
        shutdown_timeout_s: float = 4.0,
    ) -> None:
        self.options: Final = options
        super().__init__(
            encode,
            split,
            options.post(),
            policy=policy or RetryPolicy(attempt_timeout_s=options.timeout_s),
            spool=spool,
            max_waiting=max_waiting,
            max_batch=max_batch,
            shutdown_timeout_s=shutdown_timeout_s,
        )

    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        """Return the sampled ones at once."""
        sampled = [span for span in spans if (context := span.get_span_context()) and context.trace_flags.sampled]
        self.ledger.sampled_out(len(spans) - len(sampled))
        return sampled

    def forget(self) -> None:
        """Leave the open connection to the parent process."""
        self._post = self.options.post()
