"""Settings → options: the one place where the flat settings are turned into the options of the parts.

An option is declared in `Settings`, because its name is that of the environment variable, and in the part that it
tunes. The options of an adapter are passed with its URL in `forge_otel._runtime.components`; `Telemetry` reads the
settings itself, because applications build it without a Forge.
"""

from pathlib import Path
from typing import Final

from forge_otel.layers.budget import BudgetOptions
from forge_otel.layers.exact.layer import ExactCacheOptions
from forge_otel.layers.semantic.layer import SemanticCacheOptions
from forge_otel.outbox.outbox import OutboxOptions
from forge_otel.settings import Settings

__all__ = ["OUTBOX_SHARE", "RUNS_SHARE", "SPANS_SHARE", "budget", "exact_cache", "outbox", "semantic_cache"]

# Fractions of `shutdown_timeout_s`, in the order of closing: running generations, the outbox, spans.
RUNS_SHARE: Final = 0.2
OUTBOX_SHARE: Final = 0.5
SPANS_SHARE: Final = 0.3

# Without a secret, MACs detect damaged entries but not forged ones.
_NO_SECRET: Final = b"forge-otel: no cache_secret is set"


def exact_cache(settings: Settings, *, time_budget_s: float | None) -> ExactCacheOptions:
    """Return the options of the exact cache.

    Args:
        settings: of the runtime.
        time_budget_s: seconds that one call may wait for the store in total.
    """
    return ExactCacheOptions(
        secret=(settings.cache_secret or "").encode() or _NO_SECRET,
        ttl_s=settings.cache_ttl_s,
        max_entry_bytes=settings.cache_max_entry_bytes,
        pipeline_version=settings.pipeline_version,
        time_budget_s=time_budget_s,
    )


def semantic_cache(settings: Settings) -> SemanticCacheOptions:
    """Return the options of the semantic cache."""
    return SemanticCacheOptions(
        pipeline_version=settings.pipeline_version,
        threshold=settings.semantic_threshold,
        thresholds=settings.semantic_thresholds,
        ttl_s=settings.semantic_ttl_s,
    )


def budget(settings: Settings) -> BudgetOptions:
    """Return the limits of the budget layer."""
    return BudgetOptions(
        usd={
            "all": settings.budget_usd,
            "tenant": settings.budget_usd_tenant,
            "user": settings.budget_usd_user,
            "session": settings.budget_usd_session,
        },
        tokens={
            "all": settings.budget_tokens,
            "tenant": settings.budget_tokens_tenant,
            "user": settings.budget_tokens_user,
            "session": settings.budget_tokens_session,
        },
        mode=settings.budget_mode,
        reserve_usd=settings.budget_reserve_usd,
        reserve_tokens=settings.budget_reserve_tokens,
    )


def outbox(settings: Settings, directory: Path | None, *, shutdown_timeout_s: float) -> OutboxOptions:
    """Return the options of the outbox.

    Args:
        settings: of the runtime.
        directory: folder of the journal; None keeps records in memory.
        shutdown_timeout_s: time limit of closing in seconds.
    """
    return OutboxOptions(
        directory=directory,
        max_bytes=settings.outbox_max_bytes,
        shutdown_timeout_s=shutdown_timeout_s,
        is_power_safe=settings.outbox_durability == "power-safe",
        when_slow=settings.outbox_when_slow,
    )
