"""Settings become the options of the parts."""

from decimal import Decimal

from forge_otel._runtime import options
from forge_otel.settings import Settings


def test_budget_limits_keep_their_scopes() -> None:
    """Each of the eight limits reaches its own scope."""
    scopes = ("", "_tenant", "_user", "_session")
    settings = Settings(
        **{f"budget_usd{scope}": Decimal(number) for number, scope in enumerate(scopes, 1)},
        **{f"budget_tokens{scope}": 10**6 * number for number, scope in enumerate(scopes, 1)},
        budget_mode="warn",
    )
    budget = options.budget(settings)
    assert budget.usd == {"all": 1, "tenant": 2, "user": 3, "session": 4}
    assert budget.tokens == {"all": 10**6, "tenant": 2 * 10**6, "user": 3 * 10**6, "session": 4 * 10**6}
    assert budget.mode == "warn"


def test_the_secret_of_the_exact_cache_is_never_empty() -> None:
    """Without one, entries still have a MAC that detects damage."""
    assert options.exact_cache(Settings(), time_budget_s=None).secret
    assert options.exact_cache(Settings(cache_secret="s" * 16), time_budget_s=1).secret == b"s" * 16


def test_the_semantic_cache_gets_its_thresholds() -> None:
    """By component type, and for all others."""
    semantic = options.semantic_cache(Settings(semantic_threshold=0.9, semantic_thresholds={"button": 0.95}))
    assert (semantic.threshold, dict(semantic.thresholds)) == (0.9, {"button": 0.95})


def test_the_time_for_closing_is_divided_completely() -> None:
    """Generations, the outbox and spans share `shutdown_timeout_s`."""
    assert options.RUNS_SHARE + options.OUTBOX_SHARE + options.SPANS_SHARE == 1
