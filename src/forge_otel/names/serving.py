"""Requests, the page of metrics itself, and what is running."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import HTTP_S, Instrument

__all__ = ["ServingMetrics"]


class ServingMetrics:
    """Requests, the page of metrics itself, and what is running."""

    HTTP_DURATION: Final = Instrument(
        name="http.server.request.duration",
        kind="histogram",
        unit="s",
        description="Duration of HTTP server requests, to the last byte sent.",
        attributes=(Attr.HTTP_METHOD, Attr.HTTP_ROUTE, Attr.HTTP_STATUS, Attr.ERROR_TYPE, Attr.URL_SCHEME),
        bounds=HTTP_S,
    )
    # Counted in the process and asked for when metrics are collected: two points a request cost as much as its span.
    HTTP_ACTIVE: Final = Instrument(
        name="http.server.active_requests",
        kind="observable_gauge",
        unit="{request}",
        description="Number of HTTP requests in flight.",
        attributes=(Attr.HTTP_METHOD, Attr.URL_SCHEME),
    )
    PAGE_ADAPTED: Final = Instrument(
        name="forge.scrape.adapted",
        kind="observable_counter",
        unit="{metric}",
        description="Metrics that could not be shown on the page as they were recorded, by reason.",
        attributes=(Attr.REASON,),
    )
    BUILD_INFO: Final = Instrument(
        name="forge.build_info",
        kind="observable_gauge",
        unit="",
        description="1, with the versions as labels.",
        attributes=(Attr.VERSION,),
    )
