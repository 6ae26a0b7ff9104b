"""Tests of recording: the catalog, limited labels, deferred points and observable instruments."""

import logging
import threading

import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from tests.unit.telemetry.recorder import Recorder

from forge_otel.names import CATALOG, Attr, Metric
from forge_otel.telemetry.metrics.instruments import OTHER, Instruments


def test_every_instrument_records(recorder: Recorder) -> None:
    """Each synchronous instrument of the catalog records a point under its name and unit."""
    wanted = [item for item in CATALOG if not item.kind.startswith("observable")]
    for item in wanted:
        recorder.telemetry.instruments.record(item, 1, dict.fromkeys(item.attributes, "x"))
    found = {(metric.name, metric.unit, metric.description) for metric in recorder.metrics()}
    assert {(item.name, item.unit, item.description) for item in wanted} <= found


def test_histograms_have_the_bounds_of_the_catalog(recorder: Recorder) -> None:
    """The advisory boundaries reach the SDK."""
    recorder.telemetry.instruments.record(Metric.GENERATION_DURATION, 60.0)
    (point,) = recorder.points(Metric.GENERATION_DURATION).values()
    assert point.explicit_bounds == Metric.GENERATION_DURATION.bounds


def test_the_number_of_label_values_is_limited(recorder: Recorder) -> None:
    """The first 20 component types keep their names, further ones become `_other`."""
    for number in range(100):
        recorder.telemetry.instruments.add(Metric.COST, 1, {Attr.COMPONENT_TYPE: f"t{number}"})
    values = {labels[-1]: value for labels, value in recorder.values(Metric.COST).items()}
    assert len(values) == 21
    assert (values["t0"], values["t19"], values[OTHER]) == (1, 1, 80)


def test_configured_component_types_keep_their_names() -> None:
    """They count first toward the limit."""
    reader = InMemoryMetricReader()
    instruments = Instruments(MeterProvider([reader]).get_meter("m"), component_types=["card"])
    for name in [*(f"t{number}" for number in range(30)), "card"]:
        instruments.add(Metric.SAVED, 1, {Attr.COMPONENT_TYPE: name})
    (metric,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    assert "card" in {point.attributes[Attr.COMPONENT_TYPE] for point in metric.data.data_points}


def test_unbound_instruments_record_nothing(recorder: Recorder) -> None:
    """Layers hold instruments before the telemetry is started and after its shutdown."""
    instruments = Instruments()
    instruments.add(Metric.COST, 1)
    instruments.bind(recorder.telemetry.meter)
    instruments.unbind()
    instruments.add(Metric.COST, 1)
    assert recorder.values(Metric.COST) == {}


def test_deferred_points_are_in_the_next_collection(recorder: Recorder) -> None:
    """Beyond the limit of the queue as well."""
    for _ in range(5000):
        recorder.telemetry.instruments.record_later(Metric.AGENT_DURATION, 0.5, {Attr.SPAN_KIND: "agent"})
    (point,) = recorder.points(Metric.AGENT_DURATION).values()
    assert point.count == 5000


def test_an_observable_is_collected_until_removed(recorder: Recorder) -> None:
    """A removed callback provides no values."""
    end = recorder.telemetry.instruments.observe(Metric.OUTBOX_WAITING, lambda: [(3, {Attr.OUTBOX_SINK: "sql"})])
    assert recorder.values(Metric.OUTBOX_WAITING) == {("sql",): 3}
    end()
    assert recorder.values(Metric.OUTBOX_WAITING) == {}


def test_a_failing_callback_does_not_hide_others(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, the values of other callbacks are collected."""
    instruments = recorder.telemetry.instruments
    instruments.observe(Metric.OUTBOX_WAITING, lambda: [(1 / 0, {})])
    instruments.observe(Metric.OUTBOX_WAITING, lambda: [(3, {Attr.OUTBOX_SINK: "sql"})])
    with caplog.at_level(logging.ERROR):
        assert recorder.values(Metric.OUTBOX_WAITING) == {("sql",): 3}
    assert Metric.OUTBOX_WAITING.name in caplog.text


def test_two_users_of_a_meter_share_observables(recorder: Recorder) -> None:
    """The SDK ignores the callbacks of a second registration."""
    second = Instruments(recorder.telemetry.meter)
    recorder.telemetry.instruments.observe(Metric.OUTBOX_WAITING, lambda: [(1, {Attr.OUTBOX_SINK: "a"})])
    second.observe(Metric.OUTBOX_WAITING, lambda: [(2, {Attr.OUTBOX_SINK: "b"})])
    assert recorder.values(Metric.OUTBOX_WAITING) == {("a",): 1, ("b",): 2}
    second.unbind()
    assert recorder.values(Metric.OUTBOX_WAITING) == {("a",): 1}


def test_a_no_op_meter_is_accepted() -> None:
    """OTEL_SDK_DISABLED provides one."""
    instruments = Instruments(NoOpMeter("m"))
    instruments.add(Metric.COST, 1, {Attr.COMPONENT_TYPE: "button"})
    instruments.record(Metric.GENERATION_DURATION, 1)


def test_deferred_additions_are_summed() -> None:
    """No addition of a thread is lost, and each set of attributes has its own sum."""
    reader = InMemoryMetricReader()
    instruments = Instruments(MeterProvider([reader]).get_meter("test"))

    def add() -> None:
        for _ in range(1000):
            instruments.add_later(Metric.CACHE_REQUESTS, 1, {Attr.CACHE_LAYER: "L1", Attr.CACHE_RESULT: "hit"})
            instruments.add_later(Metric.CACHE_REQUESTS, 2, {Attr.CACHE_LAYER: "L1", Attr.CACHE_RESULT: "miss"})

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    instruments.flush()
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = (
        metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == Metric.CACHE_REQUESTS.name
    )
    found = {point.attributes[Attr.CACHE_RESULT]: point.value for point in metric.data.data_points}
    assert found == {"hit": 4000, "miss": 8000}


def test_instruments_observed_together_agree_while_their_source_changes() -> None:
    """Each collection reads one snapshot, whatever the order in which the instruments were named."""
    reads = iter(range(100))
    reader = InMemoryMetricReader()
    instruments = Instruments(MeterProvider([reader], shutdown_on_exit=False).get_meter("m"))
    remove = instruments.observe_together(
        lambda: next(reads),
        {
            Metric.OUTBOX_AGE: lambda number: [(number, {})],
            Metric.OUTBOX_PRODUCED: lambda number: [(number, {})],
            Metric.OUTBOX_WAITING: lambda number: [(number, {})],
        },
    )
    for expected in range(3):
        metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        assert {point.value for metric in metrics for point in metric.data.data_points} == {expected}
    remove()
    assert reader.get_metrics_data() is None


def test_a_failed_snapshot_shows_no_old_values(caplog: pytest.LogCaptureFixture) -> None:
    """The instruments have no point in that collection; the failure is logged once."""
    is_failing = False
    reader = InMemoryMetricReader()
    instruments = Instruments(MeterProvider([reader], shutdown_on_exit=False).get_meter("m"))

    def snapshot() -> int:
        if is_failing:
            raise OSError("gone")
        return 1

    instruments.observe_together(
        snapshot,
        {
            Metric.OUTBOX_WAITING: lambda number: [(number, {})],
            Metric.OUTBOX_AGE: lambda number: [(number, {})],
        },
    )
    assert len(reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics) == 2
    is_failing = True
    assert reader.get_metrics_data() is None
    assert len(caplog.records) == 1
