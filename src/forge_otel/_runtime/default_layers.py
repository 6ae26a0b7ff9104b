"""Settings and parts → the layers of a generation between metrics and pipeline, and what they need opened.

`DefaultLayers.resources` lists what must be opened for the layers, `DefaultLayers.probes` what can be pinged.
"""

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from forge_otel._runtime.components import Components
from forge_otel._runtime.health_monitor import Probe
from forge_otel.errors import ConfigurationError
from forge_otel.layers.budget import BudgetLayer, BudgetOptions
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions, entry_key, unguarded
from forge_otel.layers.hooks import CacheHooks
from forge_otel.layers.pattern.layer import PatternCacheLayer
from forge_otel.layers.recording import RecordingLayer
from forge_otel.layers.semantic.layer import SemanticCacheLayer, SemanticCacheOptions
from forge_otel.layers.single_flight.layer import SingleFlightLayer
from forge_otel.layers.single_flight.lease_election import LeaseElection
from forge_otel.layers.timeout import TimeoutLayer
from forge_otel.resilience.guard import Guards
from forge_otel.resilience.time_budget import budgeted
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry
from forge_otel.types import Layer

__all__ = ["DefaultLayers", "build", "check_critical"]

# Authenticates entries where no secret is set: damage is found, but a forger is not kept out.
_NO_SECRET: Final = b"forge-otel: no cache_secret is set"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultLayers:
    """The default layers.

    Args:
        exact: L1, which is also invalidated by hand.
        budget: asked what is used today.
        pattern: L3, which is also filled in advance.
        layers: first outermost.
        flights: L1's misses, each generated once; opened last and closed first, while what it ends can be recorded.
        resources: opened in this order, closed in the reverse one.
        probes: asked in the background.
    """

    exact: ExactCacheLayer
    flights: SingleFlightLayer
    budget: BudgetLayer
    pattern: PatternCacheLayer
    layers: tuple[Layer, ...]
    resources: tuple[AbstractAsyncContextManager[Any], ...] = ()
    probes: tuple[Probe, ...] = field(default=())


def build(
    settings: Settings,
    parts: Components,
    telemetry: Telemetry,
    guards: Guards,
    recorder: RecordingLayer,
    *,
    closing_s: float,
    hooks: CacheHooks | None = None,
) -> DefaultLayers:
    """Build the default layers; nothing is connected yet.

    Args:
        closing_s: how long generations that are still running may take when the forge closes.
        hooks: what only the service can tell its caches.
    """
    hooks = hooks or CacheHooks()
    exact = _exact(settings, parts, telemetry, guards)
    budget = _budget(settings, parts, telemetry, guards)
    flights = SingleFlightLayer(
        instruments=telemetry.instruments,
        timeout_s=settings.generation_timeout_s,
        election=_election(settings, parts, telemetry, guards),
        on_orphaned=recorder.record_orphaned,
        close_timeout_s=closing_s,
    )
    semantic = _semantic(settings, parts, telemetry, guards, exact=exact, hooks=hooks)
    pattern = PatternCacheLayer(
        exact,
        instruments=telemetry.instruments,
        pipeline_version=settings.pipeline_version,
        hooks=hooks.patterns,
        ttl_s=settings.pattern_ttl_s,
    )
    stores: tuple[object, ...] = (parts.store, parts.leases, parts.vectors, parts.embedder)
    # Closed before the stores to which they still write.
    opened = (*stores, *semantic, budget, exact.write_behind)
    return DefaultLayers(
        exact=exact,
        flights=flights,
        pattern=pattern,
        budget=budget,
        layers=(exact, flights, *semantic, pattern, budget, TimeoutLayer(settings.generation_timeout_s)),
        resources=tuple(part for part in opened if isinstance(part, AbstractAsyncContextManager)),
        probes=_probes(parts, critical=settings.critical_services),
    )


def _exact(settings: Settings, parts: Components, telemetry: Telemetry, guards: Guards) -> ExactCacheLayer:
    service = parts.store_service
    options = ExactCacheOptions(
        secret=(settings.cache_secret or "").encode() or _NO_SECRET,
        ttl_s=settings.cache_ttl_s,
        max_entry_bytes=settings.cache_max_entry_bytes,
        pipeline_version=settings.pipeline_version,
        # All steps of a call together may take as long as one step with its retries.
        time_budget_s=None if service is None else guards.get(service).policies.deadline.total_s,
    )
    return ExactCacheLayer(
        parts.store,
        options,
        instruments=telemetry.instruments,
        guard=guards.get(service).call if service is not None else unguarded,
        degraded_label=f"{service or 'memory'}:uncached",
        loop_lag=guards.loop_lag,
    )


def _election(settings: Settings, parts: Components, telemetry: Telemetry, guards: Guards) -> LeaseElection | None:
    leases, lease_ttl_s = parts.leases, settings.single_flight_lease_s
    if leases is None or lease_ttl_s is None:
        return None
    service = leases.service
    # Under a breaker of its own, so that a herd of look-ups which are too slow does not part the processes.
    guard = guards.get(service if service == "flights" else f"{service}:flights")
    return LeaseElection(
        leases,
        entry_key=entry_key,
        guard=guard.call,
        instruments=telemetry.instruments,
        lease_ttl_s=lease_ttl_s,
        timeout_s=settings.generation_timeout_s,
    )


def _budget(settings: Settings, parts: Components, telemetry: Telemetry, guards: Guards) -> BudgetLayer:
    service = parts.store_service
    usd = {
        "all": settings.budget_usd,
        "tenant": settings.budget_usd_tenant,
        "user": settings.budget_usd_user,
        "session": settings.budget_usd_session,
    }
    tokens = {
        "all": settings.budget_tokens,
        "tenant": settings.budget_tokens_tenant,
        "user": settings.budget_tokens_user,
        "session": settings.budget_tokens_session,
    }
    options = BudgetOptions(
        usd=usd,
        tokens=tokens,
        mode=settings.budget_mode,
        reserve_usd=settings.budget_reserve_usd,
        reserve_tokens=settings.budget_reserve_tokens,
    )
    return BudgetLayer(
        options,
        store=parts.counters,
        instruments=telemetry.instruments,
        guard=budgeted(guards.get(service).call) if service is not None else unguarded,
    )


def _semantic(
    settings: Settings,
    parts: Components,
    telemetry: Telemetry,
    guards: Guards,
    *,
    exact: ExactCacheLayer,
    hooks: CacheHooks,
) -> tuple[SemanticCacheLayer, ...]:
    if parts.vectors is None or parts.embedder is None:
        return ()
    service = parts.vector_service
    options = SemanticCacheOptions(
        pipeline_version=settings.pipeline_version,
        threshold=settings.semantic_threshold,
        thresholds=settings.semantic_thresholds,
        ttl_s=settings.semantic_ttl_s,
    )
    layer = SemanticCacheLayer(
        parts.vectors,
        parts.embedder,
        exact,
        options,
        instruments=telemetry.instruments,
        wording=hooks.wording,
        guard=None if service is None else guards.get(service),
        embedder_guard=None if parts.embedder_service is None else guards.get(parts.embedder_service),
        service=service or "vectors",
    )
    return (layer,)


def _probes(parts: Components, *, critical: Collection[str]) -> tuple[Probe, ...]:
    effects = {
        parts.store_service: "answers are not cached, and each one costs a generation",
        parts.vector_service: "the same in other words is found only among the last answers",
        "archive": "artifacts wait on local disk",
        "database": "records wait on local disk",
    }
    return tuple(
        Probe(name=name, ping=part.ping, critical=name in critical, without_it=effects[name])
        for name, part in parts.pings.items()
    )


def check_critical(settings: Settings, probes: Collection[Probe], guarded: Collection[str]) -> None:
    """Refuse the name of a service that nothing asks or guards: it would be optional without a word."""
    known = {probe.name for probe in probes} | set(guarded)
    faults = [
        f"critical_services holds {name!r}, which is off or unknown; use one of {', '.join(sorted(known))}, "
        "or give a service of your own its policies"
        for name in settings.critical_services
        if name not in known
    ]
    if faults:
        raise ConfigurationError(faults)
