"""Metrics, span events and log lines about guards, sinks, fallbacks and error spikes; one log line for each change."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Final, get_args

from opentelemetry import trace

from forge_otel._internal.tasks import TaskSupervisor
from forge_otel._runtime.components import Components
from forge_otel.context import current_generation
from forge_otel.errors import ForgeError
from forge_otel.names import Attr, Instrument, Metric
from forge_otel.outbox.outbox import Outbox, OutboxStats, SinkStats
from forge_otel.resilience.breaker import State
from forge_otel.resilience.events import GuardEvent
from forge_otel.resilience.guard import Guards
from forge_otel.telemetry.error_rate import ErrorRateChange, ErrorRateMonitor
from forge_otel.telemetry.incidents import IncidentLog
from forge_otel.telemetry.metrics.instruments import Attributes, Instruments, PointsOf

__all__ = ["Observers"]

_logger = logging.getLogger(__name__)

Points = list[tuple[float, dict[str, str]]]


class Observers:
    """Listener of the guards, and callbacks of the observable instruments.

    Args:
        instruments: receive the measurements.
        guards: their events are observed from now on, their states at each scrape.
        outbox: observed at each scrape.
        components: their archive and database are observed at each scrape.
        tasks: restarts of background tasks are observed at each scrape.
    """

    def __init__(
        self,
        instruments: Instruments,
        guards: Guards,
        outbox: Outbox,
        components: Components,
        tasks: TaskSupervisor,
    ) -> None:
        self._instruments = instruments
        self._guards = guards
        self._outbox = outbox
        self._components = components
        self._tasks = tasks
        self.incidents = IncidentLog()
        self.spikes = ErrorRateMonitor()
        guards.listeners.add(self)

    def __call__(self, event: GuardEvent, /) -> None:
        """Record an event of a guard."""
        if event.kind == "state_changed":
            self._record_transition(event)
        elif event.kind in {"retried", "budget_exhausted"}:
            outcome = "retried" if event.kind == "retried" else "exhausted"
            labels = {Attr.BREAKER_NAME: event.service, Attr.OUTCOME: outcome}
            self._instruments.add(Metric.RETRIES, 1, labels)
        elif event.kind == "fallback_used":
            self._record_fallback(event)

    def count_fallback(self, label: str) -> None:
        """Count a fallback that served a generation, by its label in `degraded`."""
        labels = {Attr.BREAKER_NAME: label.partition(":")[0], Attr.FALLBACK: label}
        self._instruments.add(Metric.FALLBACKS, 1, labels)

    def record_outcome(self, failure: BaseException | None) -> None:
        """Record the end of the current generation: its outcome for the error rate, and the fallbacks that served it.

        Args:
            failure: the exception of the generation, or None.
        """
        if not isinstance(failure, asyncio.CancelledError):
            # Errors that the caller has to correct (4xx) say nothing about the service.
            is_client_error = isinstance(failure, ForgeError) and failure.status < 500
            self._log_spike(self.spikes.record(failure is not None and not is_client_error))
        generation = current_generation.get()
        if generation is None:
            return
        for label in generation.degraded:
            service, _, fallback = label.partition(":")
            if self.incidents.record_activation(service, fallback, cost_usd=generation.spent_usd):
                _logger.warning(
                    "service %s unavailable, fallback %s active",
                    service,
                    fallback,
                    extra={"forge": {"service": service}},
                )

    def register(self) -> Callable[[], None]:
        """Register the callbacks of the observable instruments; return the function that removes them."""
        observe = self._instruments.observe
        removals = [
            self._instruments.observe_together(self._outbox.stats, _OUTBOX_POINTS),
            observe(Metric.TASK_RESTARTS, self._task_restarts),
            observe(Metric.DATABASE_EXPIRED, self._expired_rows),
            observe(Metric.DATABASE_SET_ASIDE, self._damaged_files),
            observe(Metric.ARCHIVE_EXPIRED, self._expired_files),
            observe(Metric.BREAKER_STATE, self._breaker_states),
            observe(Metric.BREAKER_CALLS, self._breaker_calls),
            observe(Metric.ERROR_SPIKE, lambda: [(float(self._is_spiking()), {})]),
            observe(Metric.BUILD_INFO, lambda: [(1, {Attr.VERSION: version("forge-otel")})]),
        ]

        def remove() -> None:
            for removal in removals:
                removal()

        return remove

    def _is_spiking(self) -> bool:
        # Checked at each scrape, so that a spike also ends when there are no more requests.
        self._log_spike(self.spikes.check())
        return self.spikes.state().active

    def _log_spike(self, change: ErrorRateChange | None) -> None:
        if change is None:
            return
        state = change.state
        facts = {"active": state.active, "rate": round(state.rate_fast, 4), "volume": state.volume}
        _logger.log(
            logging.ERROR if state.active else logging.INFO,
            "error spike %s: %.1f %% of %d generations failed",
            "began" if state.active else "ended",
            state.rate_fast * 100,
            state.volume,
            extra={"forge": facts},
        )

    def _record_transition(self, event: GuardEvent) -> None:
        before, after = event.previous, event.state
        labels = {Attr.BREAKER_NAME: event.service, Attr.BREAKER_FROM: before, Attr.BREAKER_TO: after}
        self._instruments.add(Metric.BREAKER_TRANSITIONS, 1, labels)
        level = logging.WARNING if after == "open" else logging.INFO
        cause = f" after {event.error_type or event.detail}" if event.error_type or event.detail else ""
        facts = {"service": event.service, "from": before, "to": after, "error_type": event.error_type}
        _logger.log(
            level,
            "breaker of %s: %s → %s%s",
            event.service,
            before,
            after,
            f"{cause}, rejected for {event.wait_s:.1f} s" if after == "open" else "",
            extra={"forge": facts},
        )

    def _record_fallback(self, event: GuardEvent) -> None:
        labels = {Attr.BREAKER_NAME: event.service, Attr.FALLBACK: event.detail}
        # Inside a generation the label in `degraded` is counted.
        if current_generation.get() is None:
            self._instruments.add(Metric.FALLBACKS, 1, labels)
        trace.get_current_span().add_event("forge.fallback", {**labels, Attr.ERROR_TYPE: event.error_type})

    def _task_restarts(self) -> Points:
        # A copy: a scrape runs in a thread, and the event loop may add a task meanwhile.
        return [(count, {Attr.TASK_NAME: name}) for name, count in tuple(self._tasks.restarts.items())]

    def _expired_rows(self) -> Points:
        database = self._components.database_retention
        rows = {} if database is None else database.expired
        return [(count, {Attr.DATABASE_TABLE: table}) for table, count in rows.items()]

    def _expired_files(self) -> Points:
        archive = self._components.archive_retention
        return [] if archive is None else [(sum(archive.expired.values()), {})]

    def _damaged_files(self) -> Points:
        database = self._components.sql
        return [] if database is None else [(len(database.damaged_files), {})]

    def _breaker_states(self) -> Points:
        return [
            (float(guard.state == state), {Attr.BREAKER_NAME: guard.name, Attr.BREAKER_STATE: state})
            for guard in self._guards.states()
            for state in get_args(State)
        ]

    def _breaker_calls(self) -> Points:
        return [
            (count, {Attr.BREAKER_NAME: guard.name, Attr.OUTCOME: outcome})
            for guard in self._guards.states()
            for outcome, count in (
                ("success", guard.successes),
                ("failure", guard.failures),
                ("ignored", guard.ignored),
                ("rejected", guard.rejected),
            )
        ]


def _per_sink(value_of: Callable[[SinkStats], float | None]) -> PointsOf[OutboxStats]:
    def points(stats: OutboxStats) -> list[tuple[float, Attributes]]:
        sinks = stats.sinks.items()
        return [(value, {Attr.OUTBOX_SINK: name}) for name, sink in sinks if (value := value_of(sink)) is not None]

    return points


def _dropped(stats: OutboxStats) -> list[tuple[float, Attributes]]:
    return [
        (count, {Attr.OUTBOX_SINK: name, Attr.REASON: reason})
        for name, sink in stats.sinks.items()
        for reason, count in sink.dropped.items()
    ]


# In one snapshot, so that produced = delivered + waiting + dropped holds on a page while records are delivered.
_OUTBOX_POINTS: Final[Mapping[Instrument, PointsOf[OutboxStats]]] = {
    Metric.OUTBOX_PRODUCED: _per_sink(lambda sink: sink.produced),
    Metric.OUTBOX_DELIVERED: _per_sink(lambda sink: sink.delivered),
    Metric.OUTBOX_WAITING: _per_sink(lambda sink: sink.waiting),
    Metric.OUTBOX_DROPPED: _dropped,
    Metric.OUTBOX_UNJOURNALED: lambda stats: [(stats.unjournaled, {})],
    Metric.OUTBOX_AGE: _per_sink(lambda sink: sink.oldest_age_s),
    Metric.OUTBOX_DRAIN: _per_sink(lambda sink: sink.drained_in_s),
}
