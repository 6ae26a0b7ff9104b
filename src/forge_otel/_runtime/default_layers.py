"""The default layers between the metrics layer and the pipeline, and the resources that they need opened."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from forge_otel._runtime import options
from forge_otel._runtime.components import Components
from forge_otel.layers.budget import BudgetLayer
from forge_otel.layers.exact.layer import ExactCacheLayer, entry_key
from forge_otel.layers.hooks import CacheHooks
from forge_otel.layers.pattern.layer import PatternCacheLayer
from forge_otel.layers.recording import RecordingLayer
from forge_otel.layers.semantic.layer import SemanticCacheLayer
from forge_otel.layers.single_flight.layer import SingleFlightLayer
from forge_otel.layers.single_flight.lease_election import LeaseElection
from forge_otel.layers.timeout import TimeoutLayer
from forge_otel.resilience.guard import Guard, Guards, unguarded
from forge_otel.resilience.time_budget import budgeted
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry
from forge_otel.types import Layer
from forge_otel.types.capabilities import TracesCalls

__all__ = ["DefaultLayers", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultLayers:
    """The default layers of one runtime.

    Args:
        exact: L1.
        single_flight: generates each miss of L1 once; opened last and closed first.
        budget: limits spending.
        pattern: L3.
        layers: all of them, first outermost.
        resources: opened in this order and closed in the reverse order.
    """

    exact: ExactCacheLayer
    single_flight: SingleFlightLayer
    budget: BudgetLayer
    pattern: PatternCacheLayer
    layers: tuple[Layer, ...]
    resources: tuple[AbstractAsyncContextManager[Any], ...]


def build(
    settings: Settings,
    components: Components,
    telemetry: Telemetry,
    guards: Guards,
    recorder: RecordingLayer,
    *,
    hooks: CacheHooks | None = None,
) -> DefaultLayers:
    """Build the default layers; nothing is connected yet.

    Args:
        settings: of the runtime.
        components: the adapters that the layers use.
        telemetry: records spans and points.
        guards: around the services of the adapters.
        recorder: records runs whose callers have left.
        hooks: what the application alone knows: which part of a request is free text, and its patterns.
    """
    hooks = hooks or CacheHooks()
    parts = _Parts(settings, components, telemetry, guards)
    exact = parts.exact()
    single_flight = SingleFlightLayer(
        instruments=telemetry.instruments,
        timeout_s=settings.generation_timeout_s,
        election=parts.election(),
        on_orphaned=recorder.record_orphaned,
        # Closing may wait twice: for runs to end, and for the cancelled ones to clean up.
        close_timeout_s=settings.shutdown_timeout_s * options.RUNS_SHARE / 2,
    )
    semantic = parts.semantic(exact, hooks)
    pattern = PatternCacheLayer(
        exact,
        instruments=telemetry.instruments,
        pipeline_version=settings.pipeline_version,
        hooks=hooks.patterns,
        ttl_s=settings.pattern_ttl_s,
    )
    budget = parts.budget()
    stores: tuple[object, ...] = (components.store, components.leases, components.vectors, components.embedder)
    # The layers are closed before the stores, to which they still write.
    opened = (*stores, *semantic, budget, exact.write_behind)
    return DefaultLayers(
        exact=exact,
        # The Forge opens it last and closes it first: the generations that it ends are still recorded.
        single_flight=single_flight,
        pattern=pattern,
        budget=budget,
        # The caches are outside of the budget, so that hits are served even if it is exhausted.
        layers=(exact, single_flight, *semantic, pattern, budget, TimeoutLayer(settings.generation_timeout_s)),
        resources=tuple(part for part in opened if isinstance(part, AbstractAsyncContextManager)),
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    settings: Settings
    components: Components
    telemetry: Telemetry
    guards: Guards

    def exact(self) -> ExactCacheLayer:
        service = self.components.store_service
        guard = self._store_guard()
        # All steps of one call together may take as long as one guarded step with its retries.
        time_budget_s = None if guard is None else guard.policies.deadline.total_s
        return ExactCacheLayer(
            self.components.store,
            options.exact_cache(self.settings, time_budget_s=time_budget_s),
            instruments=self.telemetry.instruments,
            guard=unguarded if guard is None else guard.call,
            degraded_label=f"{service or 'memory'}:uncached",
            loop_lag=self.guards.loop_lag,
        )

    def election(self) -> LeaseElection | None:
        leases, lease_ttl_s = self.components.leases, self.settings.single_flight_lease_s
        if leases is None or lease_ttl_s is None:
            return None
        # A breaker of its own: slow lookups under load must not stop the processes from electing a leader.
        guard = self.guards.get(leases.service if leases.service == "flights" else f"{leases.service}:flights")
        return LeaseElection(
            leases,
            entry_key=entry_key,
            guard=guard.call,
            instruments=self.telemetry.instruments,
            lease_ttl_s=lease_ttl_s,
            timeout_s=self.settings.generation_timeout_s,
        )

    def budget(self) -> BudgetLayer:
        guard = self._store_guard()
        return BudgetLayer(
            options.budget(self.settings),
            store=self.components.counters,
            instruments=self.telemetry.instruments,
            guard=unguarded if guard is None else budgeted(guard.call),
        )

    def semantic(self, exact: ExactCacheLayer, hooks: CacheHooks) -> tuple[SemanticCacheLayer, ...]:
        vectors, embedder = self.components.vectors, self.components.embedder
        if vectors is None or embedder is None:
            return ()
        if isinstance(embedder, TracesCalls):
            embedder.tracer = self.telemetry.tracer
        service, embedder_service = self.components.vector_service, self.components.embedder_service
        layer = SemanticCacheLayer(
            vectors,
            embedder,
            exact,
            options.semantic_cache(self.settings),
            instruments=self.telemetry.instruments,
            wording=hooks.wording,
            guard=None if service is None else self.guards.get(service),
            embedder_guard=None if embedder_service is None else self.guards.get(embedder_service),
            service=service or "vectors",
        )
        return (layer,)

    def _store_guard(self) -> Guard | None:
        service = self.components.store_service
        return None if service is None else self.guards.get(service)
