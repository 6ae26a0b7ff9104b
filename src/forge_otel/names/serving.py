"""Metrics of HTTP requests, of the metrics page and of the build."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import HTTP_S, Instrument

__all__ = ["ServingMetrics"]


class ServingMetrics:
    """Instruments of the server."""

    HTTP_DURATION: Final = Instrument(
        name="http.server.request.duration",
        kind="histogram",
        unit="s",
        description="Duration of HTTP server requests until the last byte of the response.",
        attributes=(Attr.HTTP_METHOD, Attr.HTTP_ROUTE, Attr.HTTP_STATUS, Attr.ERROR_TYPE, Attr.URL_SCHEME),
        bounds=HTTP_S,
    )
    # Observed at collection and not recorded: two points for each request would take as long as its span.
    HTTP_ACTIVE: Final = Instrument(
        name="http.server.active_requests",
        kind="observable_gauge",
        unit="{request}",
        description="HTTP requests in progress.",
        attributes=(Attr.HTTP_METHOD, Attr.URL_SCHEME),
    )
    PAGE_ADAPTED: Final = Instrument(
        name="forge.scrape.adapted",
        kind="observable_counter",
        unit="{metric}",
        description="Metrics that the metrics page shows differently than recorded, by reason.",
        attributes=(Attr.REASON,),
    )
    TASK_RESTARTS: Final = Instrument(
        name="forge.task.restarts",
        kind="observable_counter",
        unit="{restart}",
        description="Restarts of background tasks after an error, by task; absent if no task has failed.",
        attributes=(Attr.TASK_NAME,),
    )
    BUILD_INFO: Final = Instrument(
        name="forge.build_info",
        kind="observable_gauge",
        unit="",
        description="Always 1, with the version as a label.",
        attributes=(Attr.VERSION,),
    )
