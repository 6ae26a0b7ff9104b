"""Metrics, span events and log lines of the runtime."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from forge_otel import Forge
from forge_otel._internal.tasks import TaskSupervisor
from forge_otel._runtime.observers import Observers
from forge_otel.context import Generation, current_generation
from forge_otel.errors import BadRequest, ServiceUnavailable
from forge_otel.names import Attr, Metric
from forge_otel.resilience.events import GuardEvent
from forge_otel.resilience.fallback import Fallback
from forge_otel.telemetry.metrics.instruments import Instruments


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Collects the points."""
    return InMemoryMetricReader()


@pytest.fixture
def observers(new_forge: Callable[..., Forge], reader: InMemoryMetricReader) -> Observers:
    """Observers of a runtime that is not open."""
    forge = new_forge()
    instruments = Instruments()
    instruments.bind(MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))
    return Observers(instruments, forge.guards, forge.outbox, forge.components, tasks=TaskSupervisor())


def _points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_a_breaker_transition_is_counted_and_logged(
    observers: Observers, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening is a warning with the cause and the duration; closing is not."""
    with caplog.at_level(logging.INFO):
        observers(
            GuardEvent(
                kind="state_changed",
                service="openai",
                previous="closed",
                state="open",
                wait_s=5,
                error_type="APIConnectionError",
            )
        )
        observers(GuardEvent(kind="state_changed", service="openai", previous="open", state="closed"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "closed → open after APIConnectionError, rejected for 5.0 s" in caplog.text
    assert [point.value for point in _points(reader)[Metric.BREAKER_TRANSITIONS.name]] == [1, 1]


def test_retries_and_fallbacks_are_counted(observers: Observers, reader: InMemoryMetricReader) -> None:
    """By service."""
    observers(GuardEvent(kind="retried", service="openai"))
    observers(GuardEvent(kind="fallback_used", service="openai", detail="cached"))
    points = _points(reader)
    assert [point.value for point in points[Metric.RETRIES.name]] == [1]
    assert [dict(point.attributes)[Attr.FALLBACK] for point in points[Metric.FALLBACKS.name]] == ["cached"]


def _fallbacks(reader: InMemoryMetricReader) -> dict[tuple[Any, Any], Any]:
    points = _points(reader).get(Metric.FALLBACKS.name, [])
    return {(point.attributes[Attr.BREAKER_NAME], point.attributes[Attr.FALLBACK]): point.value for point in points}


def _generation(observers: Observers) -> Generation:
    return Generation(id="g", started_at=datetime.now(UTC), started_s=0.0, on_degraded=observers.count_fallback)


def test_each_degraded_mark_of_a_generation_is_one_activation(
    observers: Observers, reader: InMemoryMetricReader
) -> None:
    """A generation that leaves its run to another has a record, and so marks, of its own."""
    generation = _generation(observers)
    for label in ("redis:uncached", "archive:queued", "redis:uncached"):
        generation.record_degraded(label)
    copy = generation.shared_copy()
    copy.record_degraded("redis:uncached")
    generation.detach("other")
    copy.record_degraded("sql:queued")
    marks = Counter([*generation.degraded, *copy.degraded])
    assert _fallbacks(reader) == {(label.partition(":")[0], label): number for label, number in marks.items()}


async def test_a_fallback_of_a_guard_in_a_generation_is_one_activation(
    new_forge: Callable[..., Forge], observers: Observers, reader: InMemoryMetricReader
) -> None:
    """Its event and its mark are one activation; without a generation the event counts."""

    async def fail() -> str:
        raise ServiceUnavailable("down")

    forge = new_forge()
    forge.guards.listeners.add(observers)
    guard = forge.guard("openai").using(fallbacks=[Fallback("openai:canned", lambda _exc: "canned")])
    token = current_generation.set(_generation(observers))
    assert await guard.call(fail) == "canned"
    current_generation.reset(token)
    assert _fallbacks(reader) == {("openai", "openai:canned"): 1}
    await guard.call(fail)
    assert _fallbacks(reader) == {("openai", "openai:canned"): 2}


@pytest.mark.parametrize(("mode", "state"), [("forced_open", "open"), ("forced_closed", "closed"), ("auto", "closed")])
def test_a_forced_state_is_in_the_metric(new_forge: Callable[..., Forge], mode: str, state: str) -> None:
    """So is its change, and the figures of the dashboard agree."""
    forge, reader, instruments = new_forge(), InMemoryMetricReader(), Instruments()
    instruments.bind(MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))
    Observers(instruments, forge.guards, forge.outbox, forge.components, tasks=TaskSupervisor()).register()
    forge.guard("openai")
    forge.operations.set_breaker("openai", mode)
    points = _points(reader)
    states = {
        point.attributes[Attr.BREAKER_STATE]: point.value
        for point in points[Metric.BREAKER_STATE.name]
        if point.attributes[Attr.BREAKER_NAME] == "openai"
    }
    assert states == {name: float(name == state) for name in ("closed", "open", "half_open")}
    assert {found["state"] for found in forge.operations.breakers() if found["name"] == "openai"} == {state}
    changes = [dict(point.attributes) for point in points.get(Metric.BREAKER_TRANSITIONS.name, [])]
    expected = {Attr.BREAKER_NAME: "openai", Attr.BREAKER_FROM: "closed", Attr.BREAKER_TO: "open"}
    assert changes == ([expected] if state == "open" else [])


def test_an_error_spike_is_logged_once(observers: Observers, caplog: pytest.LogCaptureFixture) -> None:
    """Client errors and cancellations do not count."""
    for _ in range(100):
        observers.record_outcome(BadRequest("x"))
        observers.record_outcome(asyncio.CancelledError())
    assert not observers.spikes.state().active
    for _ in range(400):
        observers.record_outcome(RuntimeError())
    assert caplog.text.count("error spike began") == 1


def test_observable_instruments_are_removed_again(observers: Observers, reader: InMemoryMetricReader) -> None:
    """While registered they report the build and every sink."""
    remove = observers.register()
    points = _points(reader)
    assert [point.value for point in points[Metric.BUILD_INFO.name]] == [1]
    assert {dict(point.attributes)[Attr.OUTBOX_SINK] for point in points[Metric.OUTBOX_WAITING.name]} == {"recent"}
    remove()
    assert Metric.BUILD_INFO.name not in _points(reader)
