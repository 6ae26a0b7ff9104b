"""The metrics page in Prometheus or OpenMetrics format, rendered in a thread.

Deliberate divergences from the exporter's own web application: the page has its own registry, so that nothing is
registered twice after a reload; metrics are normalized first (see `normalize`); and the weights of the Accept header
are applied, where the client library takes the first known entry.
"""

import asyncio
import gzip
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MetricsTimeoutError
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.openmetrics import exposition as openmetrics

from forge_otel.telemetry.metrics.normalize import OnChange, normalize

__all__ = ["PrometheusPage"]

_logger = logging.getLogger(__name__)

_OPENMETRICS: Final = "application/openmetrics-text"
_TEXT: Final = "text/plain"
# Level 1 takes a fifth of the time of the default level, for a page a few per cent larger.
_GZIP_LEVEL: Final = 1
_MAX_ADAPTED: Final = 1000
# The default of MetricReader.collect.
_SDK_TIMEOUT_S: Final = 10.0


class PrometheusPage:
    """Renderer of the metrics that its reader collects, one scrape at a time."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._adapted: set[tuple[str, str]] = set()

    def reader(self) -> MetricReader:
        """Return a new reader for a meter provider, whose metrics the page shows until it is shut down."""
        return _PageReader(self._registry, self._log_change)

    @property
    def adapted(self) -> Mapping[str, int]:
        """The number of metrics that the page shows differently than recorded, by reason."""
        return Counter(reason for reason, _ in self._adapted)

    async def render(self, accept: str = "", accept_encoding: str = "") -> tuple[bytes, dict[str, str]]:
        """Return the page and its headers, in the format that the request headers prefer.

        Args:
            accept: value of the `Accept` header.
            accept_encoding: value of the `Accept-Encoding` header.
        """
        return await asyncio.to_thread(self._render, accept, accept_encoding)

    def _render(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        headers = {"vary": "accept, accept-encoding"}
        # The exporter returns collected metrics to any concurrent scrape, not to the one that collected them.
        with self._lock:
            if _prefers_openmetrics(accept):
                headers["content-type"] = openmetrics.CONTENT_TYPE_LATEST
                body = self._collect(openmetrics.generate_latest)
            else:
                headers["content-type"] = exposition.CONTENT_TYPE_PLAIN_0_0_4
                body = self._collect(exposition.generate_latest)
        if _weights(accept_encoding).get("gzip", 0.0) > 0:
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body, _GZIP_LEVEL)
        return body, headers

    def _collect(self, generate: Callable[[CollectorRegistry], bytes]) -> bytes:
        began_s = time.monotonic()
        try:
            return generate(self._registry)
        except MetricsTimeoutError:
            # The SDK measures its time limit by the wall clock: a jump forward during a scrape looks like a timeout.
            if time.monotonic() - began_s >= _SDK_TIMEOUT_S:
                raise
            return generate(self._registry)

    def _log_change(self, reason: str, name: str) -> None:
        # Once for each metric, not at every scrape.
        if (reason, name) not in self._adapted and len(self._adapted) < _MAX_ADAPTED:
            self._adapted.add((reason, name))
            _logger.warning("metric %s is shown differently than recorded: %s", name, reason)


class _PageReader(PrometheusMetricReader):
    def __init__(self, registry: CollectorRegistry, on_change: OnChange) -> None:
        super().__init__(scope_info_enabled=False, registry=registry)
        self._on_change = on_change

    # The documentation of MetricReader names this method as the one to override.
    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(normalize(metrics_data, self._on_change), timeout_millis, **kwargs)


def _prefers_openmetrics(accept: str) -> bool:
    weights = _weights(accept)
    wanted = weights.get(_OPENMETRICS, 0.0)
    text = max(weights.get(_TEXT, 0.0), weights.get("text/*", 0.0))
    # OpenMetrics wins a tie, because it has exemplars, but only if the header names it: a client may not support it.
    return wanted > 0 and wanted >= text


def _weights(header: str) -> dict[str, float]:
    """Return the entries of an Accept header with their weights (RFC 9110, 12.4.2), of repeated ones the highest."""
    weights: dict[str, float] = {}
    for entry in header.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        if name:
            weights[name] = max(weights.get(name, 0.0), _weight(parameters))
    return weights


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
