"""Questions and actions of operators: figures, reports, circuit breakers, purges, health and readiness."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, cast, get_args

from forge_otel._internal.tasks import TaskSupervisor
from forge_otel._runtime import dashboard_data, health_report
from forge_otel._runtime.components import Components
from forge_otel._runtime.health_monitor import HealthMonitor
from forge_otel._runtime.login_tickets import LoginTickets
from forge_otel._runtime.observers import Observers
from forge_otel.errors import BadRequest, NotFound
from forge_otel.layers.budget import BudgetLayer
from forge_otel.layers.exact.purge import Purger
from forge_otel.outbox.outbox import Outbox
from forge_otel.outbox.recent import RecentRecords
from forge_otel.resilience.breaker import Mode
from forge_otel.resilience.guard import Guards
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry

__all__ = ["Operations"]


class Operations:
    """The operators' interface to one runtime, as `forge.operations`; the dashboard and its API are built on it.

    Args:
        settings: of the runtime.
        components: the adapters, of which the database is queried.
        telemetry: knows the state of the exporters.
        guards: around services; their breakers are shown and forced.
        outbox: queued and delivered records.
        recent: the last records of this process, for figures without a database.
        budget: spending of the current UTC day.
        purger: invalidates entries of the exact cache.
        observers: incidents and error spikes.
        health: results of the pings.
        tasks: background tasks of the runtime.
        is_open: returns whether the runtime is connected.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        components: Components,
        telemetry: Telemetry,
        guards: Guards,
        outbox: Outbox,
        recent: RecentRecords,
        budget: BudgetLayer,
        purger: Purger,
        observers: Observers,
        health: HealthMonitor,
        tasks: TaskSupervisor,
        is_open: Callable[[], bool],
    ) -> None:
        self._critical = frozenset(settings.critical_services)
        self._components = components
        self._telemetry = telemetry
        self._guards = guards
        self._outbox = outbox
        self._recent = recent
        self._budget = budget
        self._purger = purger
        self._observers = observers
        self._health = health
        self._tasks = tasks
        self._is_open = is_open
        self.login_tickets = LoginTickets()

    async def summary(self) -> dict[str, Any]:
        """Return the dashboard's figures, JSON-ready, from the database or else from the last records.

        Costs and errors include those of this process without a record, which are also in `unrecorded`.
        """
        figures = await dashboard_data.summary(self._components.sql, self._recent, self._telemetry.unrecorded)
        stats = self._outbox.stats()
        return figures | {
            "outbox": {
                "durable": stats.is_durable,
                "journal_bytes": stats.journal_bytes,
                "unjournaled": stats.unjournaled,
                "sinks": {name: asdict(sink) for name, sink in stats.sinks.items()},
            },
            "budget": await self._budget.usage(),
            "breakers": self.breakers(),
            "incidents": [incident.to_dict() for incident in self._observers.incidents.report()],
            "spike": asdict(self._observers.spikes.state()),
        }

    async def report(self, requested: Mapping[str, str]) -> tuple[str, str]:
        """Return a report from the database as text, and its media type.

        Args:
            requested: `from`, `to`, `type`, `format` and `errors`, all optional, as `forge-otel report` takes them.

        Raises:
            BadRequest: an option is malformed or out of bounds.
            NotFound: no database is configured.
            ServiceUnavailable: the database does not respond.
        """
        return await dashboard_data.report(self._components.sql, requested)

    def breakers(self) -> list[dict[str, Any]]:
        """Return the state of every circuit breaker, JSON-ready, by name."""
        return [asdict(guard) for guard in self._guards.states()]

    def set_breaker(self, name: str, mode: str) -> None:
        """Set the mode of a circuit breaker in this process.

        Args:
            name: the service's name.
            mode: `auto`, `forced_open`, `forced_closed`, or `shadow`, which only observes.

        Raises:
            NotFound: no guard has that name.
            BadRequest: the mode does not exist.
        """
        # `Guards.get` would create a guard for a misspelt name.
        if name not in {guard.name for guard in self._guards.states()}:
            raise NotFound(f"no service called {name[:64]!r} is guarded; `forge-otel breakers` lists the guarded ones")
        if mode not in get_args(Mode):
            raise BadRequest(f"a breaker has no mode {mode[:64]!r}; use one of {', '.join(get_args(Mode))}")
        self._guards.get(name).admission.set_mode(cast("Mode", mode))

    async def purge(self, by: str, value: str = "", *, who: str = "", is_dry_run: bool = False) -> dict[str, Any]:
        """Invalidate entries of the exact cache and return the result, JSON-ready.

        Args:
            by: `key`, `figma`, `tokens`, `type`, `tenant`, `version` or `all`.
            value: the key, file, digest, type, tenant or version; empty for `all`.
            who: the operator, for the audit log.
            is_dry_run: count the entries and leave them valid.

        Raises:
            BadRequest: `by` or `value` is malformed.
            ForgeError: the store did not respond, and nothing was purged.
        """
        return asdict(await self._purger.purge(by, value, who=who, is_dry_run=is_dry_run))

    def login_link(self, *, base_url: str, dashboard: str = "/forge") -> str:
        """Return a link that opens the dashboard of this process once, within ten minutes.

        Args:
            base_url: address of the service, for example `http://127.0.0.1:8000`.
            dashboard: path of the dashboard, as in `Routes`.
        """
        return f"{base_url.rstrip('/')}{dashboard}/login?ticket={self.login_tickets.issue()}"

    def health_report(self) -> dict[str, Any]:
        """Return `{"status": "pass" | "warn" | "fail", "checks": {…}}` (draft-inadarei-api-health-check)."""
        database = self._components.sql
        return health_report.add_checks(
            self._health.report(),
            self._outbox.stats(),
            self._guards.states(),
            self._observers.spikes.state(),
            critical=self._critical,
            damaged_files=() if database is None else database.damaged_files,
            exports=self._telemetry.exports(),
            tasks=self._tasks.failing(),
        )

    def ready(self) -> bool:
        """Return whether requests can be served: the runtime is open and every critical service is available."""
        # A breaker whose open time is over does not count: only a request can find out whether the service recovered.
        is_refused = any(guard.name in self._critical and guard.rejects_for_s for guard in self._guards.states())
        return self._is_open() and self._health.ready() and not is_refused
