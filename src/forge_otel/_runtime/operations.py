"""What operators ask of a runtime, and what they may do to it: figures, reports, breakers, health."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast, get_args

from forge_otel._runtime import dashboard_data as _figures
from forge_otel._runtime import health_report as _health_report
from forge_otel._runtime.components import Components
from forge_otel._runtime.health_monitor import HealthMonitor
from forge_otel._runtime.observers import Observers
from forge_otel.errors import BadRequest, NotFound
from forge_otel.layers.budget import BudgetLayer
from forge_otel.outbox.outbox import Outbox
from forge_otel.outbox.recent import RecentRecords
from forge_otel.resilience.breaker import Mode
from forge_otel.resilience.guard import Guards
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry

__all__ = ["Operations"]


class Operations:
    """The operators' half of a `Forge`, which builds what is asked here."""

    settings: Settings
    parts: Components
    telemetry: Telemetry
    guards: Guards
    outbox: Outbox
    recent: RecentRecords
    budget: BudgetLayer
    _watch: Observers
    _health: HealthMonitor
    _entered: int

    @property
    def is_open(self) -> bool:
        """Whether the forge is connected; while it is not, decorated functions simply run."""
        return self._entered > 0

    async def summary(self) -> dict[str, Any]:
        """Return the dashboard's figures, JSON-ready: from the database, or from the last records without one."""
        figures = await _figures.summary(self.parts.analytics, self.recent)
        stats = self.outbox.stats()
        return figures | {
            "outbox": {
                "durable": stats.is_durable,
                "journal_bytes": stats.journal_bytes,
                "sinks": {name: asdict(sink) for name, sink in stats.sinks.items()},
            },
            "budget": await self.budget.used(),
            "breakers": self.breakers(),
            "incidents": [incident.to_dict() for incident in self._watch.incidents.report()],
            "spike": asdict(self._watch.spikes.state()),
        }

    async def report(self, asked: Mapping[str, str]) -> tuple[str, str]:
        """Return a report from the database as text, and its media type."""
        return await _figures.report(self.parts.analytics, asked)

    def breakers(self) -> list[dict[str, Any]]:
        """Return what the circuit breakers look like now, JSON-ready, by name."""
        return [asdict(guard) for guard in self.guards.states()]

    def set_breaker(self, name: str, mode: str) -> None:
        """Force a breaker open or closed, let it only watch, or hand it back to itself; in this process.

        Args:
            name: the service's name.
            mode: `auto`, `forced_open`, `forced_closed` or `shadow`.

        Raises:
            NotFound: nothing guards a service of that name.
            BadRequest: there is no such mode.
        """
        if name not in {guard.name for guard in self.guards.states()}:
            raise NotFound(f"nothing guards a service called {name[:64]!r}; `forge-otel breakers` lists those that are")
        if mode not in get_args(Mode):
            raise BadRequest(f"a breaker has no mode {mode[:64]!r}; use one of {', '.join(get_args(Mode))}")
        self.guards.get(name).gate.set_mode(cast("Mode", mode))

    def health_report(self) -> dict[str, Any]:
        """Return `{"status": "pass" | "warn" | "fail", "checks": {…}}` (draft-inadarei-api-health-check)."""
        return _health_report.with_parts(
            self._health.report(),
            self.outbox.stats(),
            self.guards.states(),
            self._watch.spikes.state(),
            critical=self.settings.critical_services,
            damaged_files=() if self.parts.database_recovery is None else self.parts.database_recovery.damaged_files,
            exports=self.telemetry.exports(),
        )

    def ready(self) -> bool:
        """Whether requests can be answered: it is open, and no critical service is away or left alone."""
        critical = self.settings.critical_services
        # Once the open time is over it is ready again, because only a request can find out whether the service is back.
        is_refused = any(guard.name in critical and guard.rejects_for_s for guard in self.guards.states())
        return self.is_open and self._health.ready() and not is_refused
