"""The page is valid in both formats, whatever shares the meter provider, and is rendered off the loop."""

import asyncio
import gzip
import logging
from typing import Any

import pytest
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from prometheus_client import parser
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics_parser

from forge_otel.names import CATALOG, Attr, Metric
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.telemetry.metrics.prometheus import PrometheusPage

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
# What Prometheus 3 sends.
PROMETHEUS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,"
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
EXPONENTIAL = View(instrument_type=Histogram, aggregation=ExponentialBucketHistogramAggregation())


def provide(page: PrometheusPage, *views: View) -> MeterProvider:
    """Return a provider that `page` shows."""
    return MeterProvider([page.reader()], views=views, shutdown_on_exit=False)


@pytest.fixture
def page() -> PrometheusPage:
    """A page that nothing writes to yet."""
    return PrometheusPage()


async def read(page: PrometheusPage) -> dict[str, Family]:
    """Return the page's families by name, read from both formats by their own parsers; they must agree."""
    text, _ = await page.render()
    openmetrics, _ = await page.render(OPENMETRICS)
    families = {family.name: family for family in parser.text_string_to_metric_families(text.decode())}
    strict = list(openmetrics_parser.text_string_to_metric_families(openmetrics.decode()))
    assert {family.name for family in strict} - {"target"} == {name for name in families if name != "target_info"}
    assert text.decode().count("# TYPE") == len(families)
    return families


def samples(family: Family) -> dict[tuple[str, ...], float]:
    """Return a family's values by name and label values."""
    return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in family.samples}


async def test_the_whole_catalog_is_valid_in_both_formats(page: PrometheusPage) -> None:
    """Each instrument becomes one family with its help, type and unit."""
    instruments = Instruments(provide(page).get_meter("m"))
    for item in CATALOG:
        labels = dict.fromkeys(item.attributes, 'a"b\\c\nd')
        if item.kind.startswith("observable"):
            instruments.observe(item, lambda labels=labels: [(1, labels)])  # type: ignore[misc]
        else:
            instruments.record(item, 1, labels)
    families = await read(page)
    assert len(families) == len(CATALOG) + 1
    assert families["gen_ai_client_operation_duration_seconds"].type == "histogram"
    assert families["forge_genai_cost_usd"].documentation == Metric.COST.description


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        (PROMETHEUS, True),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.5", False),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0,text/plain", False),
        ("text/*;q=0.3, application/openmetrics-text; version=1.0.0; q=0.4", True),
        ("application/openmetrics-text;q=broken", False),
        (";;,,=,q=1", False),
    ],
)
async def test_the_format_follows_the_weights(accept: str, is_openmetrics: bool, page: PrometheusPage) -> None:
    """RFC 9110: the highest weight wins, in whatever order."""
    provider = provide(page)
    provider.get_meter("m").create_counter("c").add(1)
    body, headers = await page.render(accept)
    assert headers["content-type"].startswith("application/openmetrics-text") is is_openmetrics
    assert body.endswith(b"# EOF\n") is is_openmetrics


@pytest.mark.parametrize(("encoding", "zipped"), [("gzip, br", True), ("gzip;q=0", False), ("", False), ("br", False)])
async def test_gzip_on_request(encoding: str, zipped: bool, page: PrometheusPage) -> None:
    """Compressed for those who ask, and for nobody else."""
    provider = provide(page)
    provider.get_meter("m").create_counter("c").add(1)
    body, headers = await page.render("", encoding)
    assert (headers.get("content-encoding") == "gzip") is zipped
    assert b"c_total 1.0" in (gzip.decompress(body) if zipped else body)


async def test_an_exponential_histogram_is_shown_as_a_classic_one(
    page: PrometheusPage, caplog: pytest.LogCaptureFixture
) -> None:
    """A View of the application must not kill the page; nothing is lost, and it is counted and said once."""
    provider = provide(page, EXPONENTIAL)
    histogram = provider.get_meter("host").create_histogram("host.latency", "s")
    values = [0.0, 0.001, 0.75, 1.0, 1.5, 3.0, 1000.0]
    for value in values:
        histogram.record(value)
    with caplog.at_level(logging.WARNING):
        families = await read(page)
    buckets = {s.labels["le"]: s.value for s in families["host_latency_seconds"].samples if "le" in s.labels}
    assert all(count == sum(value <= float(le) for value in values) for le, count in buckets.items())
    assert {"0.0", "1.0", "2.0", "4.0", "1024.0", "+Inf"} <= set(buckets)
    assert page.adapted == {"exponential": 1}
    assert caplog.text.count("host.latency") == 1


@pytest.mark.parametrize("values", [[1e-300, 1e300], [5e-324], [1.7e308], [0.0], [2.0**n for n in range(-40, 40)]])
async def test_exponential_extremes_are_shown(values: list[float], page: PrometheusPage) -> None:
    """Whatever was recorded is in the count, and buckets never fall."""
    histogram = provide(page, EXPONENTIAL).get_meter("host").create_histogram("host.latency")
    for value in values:
        histogram.record(value)
    found = [sample for sample in (await read(page))["host_latency"].samples if "le" in sample.labels]
    counts = [sample.value for sample in sorted(found, key=lambda sample: float(sample.labels["le"]))]
    assert counts == sorted(counts)
    assert (found[-1].labels["le"], counts[-1]) == ("+Inf", len(values))


async def test_a_name_that_two_scopes_use_is_one_family(page: PrometheusPage) -> None:
    """Equal series are added, others stand beside each other with their own labels."""
    provider = provide(page)
    provider.get_meter("one").create_counter("calls", description="one").add(1, {"a": "x", "b": "y"})
    provider.get_meter("two").create_counter("calls", description="two").add(2, {"c": "z"})
    provider.get_meter("three").create_counter("calls").add(4, {"c": "z"})
    family = (await read(page))["calls"]
    assert family.documentation == "one"
    found = {tuple(sorted((k, v) for k, v in s.labels.items() if v)): s.value for s in family.samples}
    assert found == {(("a", "x"), ("b", "y")): 1, (("c", "z"),): 6}


async def test_histograms_of_two_scopes_are_added(page: PrometheusPage) -> None:
    """With the same bounds; where bounds differ, the first is shown and the other is counted."""
    provider = provide(page)
    for scope, bounds in (("one", [1.0, 2.0]), ("two", [1.0, 2.0]), ("three", [5.0])):
        meter = provider.get_meter(scope)
        meter.create_histogram("size", explicit_bucket_boundaries_advisory=bounds).record(1.5)
    found = samples((await read(page))["size"])
    assert (found["size_count",], found["size_bucket", "1.0"], found["size_bucket", "2.0"]) == (2, 0, 2)
    assert page.adapted == {"bounds_conflict": 1}


async def test_a_name_of_two_types_is_shown_as_the_first(page: PrometheusPage) -> None:
    """A counter and a gauge of one name cannot both be on a page."""
    provider = provide(page)
    provider.get_meter("one").create_counter("thing").add(1)
    provider.get_meter("two").create_gauge("thing").set(5)
    provider.get_meter("three").create_gauge("level").set(5)
    provider.get_meter("four").create_gauge("level").set(7)
    families = await read(page)
    assert (families["thing"].type, samples(families["level"])) == ("counter", {("level",): 7})
    assert page.adapted == {"type_conflict": 1}


async def test_names_that_become_equal_are_one_family(page: PrometheusPage) -> None:
    """`a.b` and `a_b` are the same to Prometheus, as names and as labels."""
    provider = provide(page)
    provider.get_meter("one").create_counter("a.b").add(1, {"k.v": "x"})
    provider.get_meter("one").create_counter("a_b").add(2, {"k_v": "x"})
    assert samples((await read(page))["a_b"]) == {("a_b_total", "x"): 3}


async def test_concurrent_scrapes_are_whole(page: PrometheusPage) -> None:
    """Every scrape sees every family once, however many run at the same time."""
    meter = provide(page).get_meter("m")
    for number in range(50):
        meter.create_counter(f"c{number}").add(1)
    pages = await asyncio.gather(*(page.render() for _ in range(40)))
    assert len({body for body, _ in pages}) == 1
    assert pages[0][0].count(b"# TYPE c") == 50


async def test_rendering_leaves_the_loop_free(page: PrometheusPage) -> None:
    """The event loop goes on while a page of ten thousand series is made."""
    meter = provide(page).get_meter("m")
    counters = [meter.create_counter(f"c{number}") for number in range(10)]
    for counter in counters:
        for number in range(1000):
            counter.add(1, {"n": str(number)})
    scrape = asyncio.create_task(page.render("", "gzip"))
    turns = 0
    while not scrape.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 5


async def test_labels_stay_within_the_catalog(page: PrometheusPage) -> None:
    """No scope labels, nothing but what the instrument lists."""
    instruments = Instruments(provide(page).get_meter("m"))
    instruments.add(Metric.CACHE_LOOKUPS, 1, {Attr.CACHE_OUTCOME: "hit", Attr.CACHE_LAYER: "L1"})
    (sample,) = (await read(page))["forge_cache_lookups"].samples
    assert sample.labels == {"cache_outcome": "hit", "cache_layer": "L1"}


async def test_a_reader_that_is_shut_down_leaves_the_page(page: PrometheusPage) -> None:
    """After a reload the page shows the new reader only."""
    provider = MeterProvider(shutdown_on_exit=False)
    first, second = page.reader(), page.reader()
    provider.add_metric_reader(first)
    provider.remove_metric_reader(first)
    provider.add_metric_reader(second)
    provider.get_meter("m").create_counter("c").add(1)
    body: Any = (await page.render())[0]
    assert body.count(b"c_total 1.0") == 1
