"""A meter provider behind a metrics page, and the page's families read by the parsers of the Prometheus client."""

from typing import Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import View
from prometheus_client import parser
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics_parser

from forge_otel.telemetry.metrics.prometheus import PrometheusPage

OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"


def provide(page: PrometheusPage, *views: View) -> MeterProvider:
    """Return a meter provider whose metrics `page` shows."""
    return MeterProvider([page.reader()], views=views, shutdown_on_exit=False)


async def read(page: PrometheusPage) -> dict[str, Family]:
    """Return the families of the page by name, which both formats must agree on."""
    text, _ = await page.render()
    openmetrics, _ = await page.render(OPENMETRICS)
    families = {family.name: family for family in parser.text_string_to_metric_families(text.decode())}
    strict = list(openmetrics_parser.text_string_to_metric_families(openmetrics.decode()))
    assert {family.name for family in strict} - {"target"} == {name for name in families if name != "target_info"}
    assert text.decode().count("# TYPE") == len(families)
    return families


def samples(family: Family) -> dict[tuple[str, ...], float]:
    """Return the values of a family by sample name and label values."""
    return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in family.samples}
