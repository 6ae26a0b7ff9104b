"""Tests of the normalization of metrics for the Prometheus exporter."""

import logging

import pytest
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from tests.unit.telemetry.metrics.pages import provide, read, samples

from forge_otel.telemetry.metrics.prometheus import PrometheusPage

EXPONENTIAL = View(instrument_type=Histogram, aggregation=ExponentialBucketHistogramAggregation())


async def test_an_exponential_histogram_gets_explicit_buckets(
    page: PrometheusPage, caplog: pytest.LogCaptureFixture
) -> None:
    """A View of the application must not break the page; counts stay exact, and one warning is logged."""
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
async def test_extreme_values_are_counted(values: list[float], page: PrometheusPage) -> None:
    """Every value is in the count, and cumulative buckets never decrease."""
    histogram = provide(page, EXPONENTIAL).get_meter("host").create_histogram("host.latency")
    for value in values:
        histogram.record(value)
    found = [sample for sample in (await read(page))["host_latency"].samples if "le" in sample.labels]
    counts = [sample.value for sample in sorted(found, key=lambda sample: float(sample.labels["le"]))]
    assert counts == sorted(counts)
    assert (found[-1].labels["le"], counts[-1]) == ("+Inf", len(values))


async def test_a_counter_of_several_scopes_is_one_family(page: PrometheusPage) -> None:
    """Equal series are added, different ones keep their labels."""
    provider = provide(page)
    provider.get_meter("one").create_counter("calls", description="one").add(1, {"a": "x", "b": "y"})
    provider.get_meter("two").create_counter("calls", description="two").add(2, {"c": "z"})
    provider.get_meter("three").create_counter("calls").add(4, {"c": "z"})
    family = (await read(page))["calls"]
    assert family.documentation == "one"
    found = {tuple(sorted((k, v) for k, v in s.labels.items() if v)): s.value for s in family.samples}
    assert found == {(("a", "x"), ("b", "y")): 1, (("c", "z"),): 6}


async def test_histograms_of_several_scopes_are_added(page: PrometheusPage) -> None:
    """Only with equal bounds; a histogram with other bounds is left out and counted."""
    provider = provide(page)
    for scope, bounds in (("one", [1.0, 2.0]), ("two", [1.0, 2.0]), ("three", [5.0])):
        meter = provider.get_meter(scope)
        meter.create_histogram("size", explicit_bucket_boundaries_advisory=bounds).record(1.5)
    found = samples((await read(page))["size"])
    assert (found["size_count",], found["size_bucket", "1.0"], found["size_bucket", "2.0"]) == (2, 0, 2)
    assert page.adapted == {"bounds_conflict": 1}


async def test_a_name_with_two_types_keeps_the_first(page: PrometheusPage) -> None:
    """A family of the Prometheus format has one type."""
    provider = provide(page)
    provider.get_meter("one").create_counter("thing").add(1)
    provider.get_meter("two").create_gauge("thing").set(5)
    provider.get_meter("three").create_gauge("level").set(5)
    provider.get_meter("four").create_gauge("level").set(7)
    families = await read(page)
    assert (families["thing"].type, samples(families["level"])) == ("counter", {("level",): 7})
    assert page.adapted == {"type_conflict": 1}


async def test_names_equal_in_prometheus_are_one_family(page: PrometheusPage) -> None:
    """`a.b` and `a_b` become the same name, of metrics and of labels."""
    provider = provide(page)
    provider.get_meter("one").create_counter("a.b").add(1, {"k.v": "x"})
    provider.get_meter("one").create_counter("a_b").add(2, {"k_v": "x"})
    assert samples((await read(page))["a_b"]) == {("a_b_total", "x"): 3}
