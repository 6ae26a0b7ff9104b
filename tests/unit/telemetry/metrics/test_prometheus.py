"""Tests of the metrics page: formats, compression, concurrency."""

import asyncio
import gzip
import time
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider, MetricsTimeoutError
from opentelemetry.sdk.metrics._internal import measurement_consumer
from tests.unit.telemetry.metrics.pages import provide, read, samples

from forge_otel.names import CATALOG, Attr, Metric
from forge_otel.telemetry.metrics import prometheus
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.telemetry.metrics.prometheus import PrometheusPage

# The header of Prometheus 3.
PROMETHEUS_3 = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,"
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


async def test_the_whole_catalog_is_valid_in_both_formats(page: PrometheusPage) -> None:
    """Each instrument is one family with its help text, type and unit."""
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
        (PROMETHEUS_3, True),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.5", False),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0,text/plain", False),
        ("text/*;q=0.3, application/openmetrics-text; version=1.0.0; q=0.4", True),
        ("application/openmetrics-text;q=broken", False),
        (";;,,=,q=1", False),
    ],
)
async def test_the_format_follows_the_weights(accept: str, is_openmetrics: bool, page: PrometheusPage) -> None:
    """RFC 9110: the highest weight wins, in any order."""
    provider = provide(page)
    provider.get_meter("m").create_counter("c").add(1)
    body, headers = await page.render(accept)
    assert headers["content-type"].startswith("application/openmetrics-text") is is_openmetrics
    assert body.endswith(b"# EOF\n") is is_openmetrics


@pytest.mark.parametrize(("encoding", "zipped"), [("gzip, br", True), ("gzip;q=0", False), ("", False), ("br", False)])
async def test_gzip_on_request(encoding: str, zipped: bool, page: PrometheusPage) -> None:
    """Only for clients that accept it."""
    provider = provide(page)
    provider.get_meter("m").create_counter("c").add(1)
    body, headers = await page.render("", encoding)
    assert (headers.get("content-encoding") == "gzip") is zipped
    assert b"c_total 1.0" in (gzip.decompress(body) if zipped else body)


async def test_concurrent_scrapes_are_complete(page: PrometheusPage) -> None:
    """Every scrape contains every family once."""
    meter = provide(page).get_meter("m")
    for number in range(50):
        meter.create_counter(f"c{number}").add(1)
    pages = await asyncio.gather(*(page.render() for _ in range(40)))
    assert len({body for body, _ in pages}) == 1
    assert pages[0][0].count(b"# TYPE c") == 50


async def test_rendering_does_not_block_the_event_loop(page: PrometheusPage) -> None:
    """Other tasks run while a page of ten thousand series is rendered."""
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


async def test_a_sample_has_the_labels_of_the_catalog_only(page: PrometheusPage) -> None:
    """The exporter's scope labels are off."""
    instruments = Instruments(provide(page).get_meter("m"))
    instruments.add(Metric.CACHE_LOOKUPS, 1, {Attr.CACHE_OUTCOME: "hit", Attr.CACHE_LAYER: "L1"})
    (sample,) = (await read(page))["forge_cache_lookups"].samples
    assert sample.labels == {"cache_outcome": "hit", "cache_layer": "L1"}


async def test_the_metrics_of_a_closed_reader_are_not_shown(page: PrometheusPage) -> None:
    """After a reload the page shows the new reader only."""
    provider = MeterProvider(shutdown_on_exit=False)
    first, second = page.reader(), page.reader()
    provider.add_metric_reader(first)
    provider.remove_metric_reader(first)
    provider.add_metric_reader(second)
    provider.get_meter("m").create_counter("c").add(1)
    body: Any = (await page.render())[0]
    assert body.count(b"c_total 1.0") == 1


async def test_a_jump_of_the_wall_clock_during_a_scrape_is_no_timeout(
    page: PrometheusPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK limits a collection by the wall clock."""
    jump_ns = 0
    monkeypatch.setattr(measurement_consumer, "time_ns", lambda: time.time_ns() + jump_ns)
    instruments = Instruments(provide(page).get_meter("m"))

    def observe() -> list[tuple[float, dict[str, str]]]:
        nonlocal jump_ns
        jump_ns = 3600 * 10**9
        return [(7, {})]

    instruments.observe(Metric.FEEDBACK_WAITING, observe)
    families = await read(page)
    assert samples(families["forge_feedback_waiting"])[("forge_feedback_waiting",)] == 7


async def test_a_callback_that_takes_too_long_fails_the_scrape(
    page: PrometheusPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout that the monotonic clock confirms is not tried again."""
    passed_s = 0.0
    monkeypatch.setattr(measurement_consumer, "time_ns", lambda: time.time_ns() + int(passed_s * 1e9))
    monkeypatch.setattr(prometheus, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s))
    instruments = Instruments(provide(page).get_meter("m"))
    calls = 0

    def observe() -> list[tuple[float, dict[str, str]]]:
        nonlocal passed_s, calls
        calls += 1
        passed_s += 11
        return [(7, {})]

    instruments.observe(Metric.FEEDBACK_WAITING, observe)
    with pytest.raises(MetricsTimeoutError):
        await page.render()
    assert calls == 1
