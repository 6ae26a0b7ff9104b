"""The metrics page: recorded with the OpenTelemetry SDK, read through its Prometheus exporter, rendered off the loop.

Deliberate divergences from the exporter's own web application: the page has a registry of its own, so that reloads and
tests do not register twice; metrics are made fit to be shown first (`forge_otel.telemetry.metrics.normalize`); and the
Accept header is read with its weights, where the client library takes the first entry it knows.
"""

import asyncio
import gzip
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.openmetrics import exposition as openmetrics

from forge_otel.telemetry.metrics.normalize import OnChange, normalize

__all__ = ["PrometheusPage"]

logger = logging.getLogger(__name__)

_OPENMETRICS: Final = "application/openmetrics-text"
_TEXT: Final = "text/plain"
# Level 1 takes a fifth of the time of the default for a page that is a few per cent larger.
_GZIP_LEVEL: Final = 1
_MAX_NOTED: Final = 1000


class PrometheusPage:
    """Renders what its reader collects, for one scrape at a time."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._noted: set[tuple[str, str]] = set()

    def reader(self) -> MetricReader:
        """Return a new reader for a meter provider; the page shows what it collects until it is shut down."""
        return _PageReader(self._registry, self._note)

    @property
    def adapted(self) -> Mapping[str, int]:
        """How many metrics could not be shown as they were recorded, by reason."""
        return Counter(reason for reason, _ in self._noted)

    async def render(self, accept: str = "", accept_encoding: str = "") -> tuple[bytes, dict[str, str]]:
        """Return the page and its headers, in the format that the caller likes best.

        Args:
            accept: the request header.
            accept_encoding: the request header.
        """
        return await asyncio.to_thread(self._render, accept, accept_encoding)

    def _render(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        headers = {"vary": "accept, accept-encoding"}
        # The exporter hands what it collected to whichever scrape comes next.
        with self._lock:
            if _prefers_openmetrics(accept):
                headers["content-type"] = openmetrics.CONTENT_TYPE_LATEST
                body = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            else:
                headers["content-type"] = exposition.CONTENT_TYPE_PLAIN_0_0_4
                body = exposition.generate_latest(self._registry)
        if _weights(accept_encoding).get("gzip", 0.0) > 0:
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body, _GZIP_LEVEL)
        return body, headers

    def _note(self, reason: str, name: str) -> None:
        if (reason, name) not in self._noted and len(self._noted) < _MAX_NOTED:
            self._noted.add((reason, name))
            logger.warning("The metric %s is not shown as it was recorded: %s", name, reason)


class _PageReader(PrometheusMetricReader):
    def __init__(self, registry: CollectorRegistry, note: OnChange) -> None:
        super().__init__(scope_info_enabled=False, registry=registry)
        self._note = note

    # What the base class MetricReader documents as the method that readers override.
    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(normalize(metrics_data, self._note), timeout_millis, **kwargs)


def _prefers_openmetrics(accept: str) -> bool:
    weights = _weights(accept)
    wanted = weights.get(_OPENMETRICS, 0.0)
    text = max(weights.get(_TEXT, 0.0), weights.get("text/*", 0.0))
    # A tie goes to OpenMetrics, which can say more; but whoever does not name it may not know it.
    return wanted > 0 and wanted >= text


def _weights(header: str) -> dict[str, float]:
    """Return what a header accepts with its weights (RFC 9110, 12.4.2), the highest where a name is repeated."""
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
