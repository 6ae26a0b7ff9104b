"""Settings from code and from the environment, and their validation."""

from dataclasses import fields
from decimal import Decimal

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.pricing import ModelPrice
from forge_otel.settings import Settings, mask_url


def test_an_empty_environment_gives_the_defaults() -> None:
    """Every part has an embedded default."""
    assert Settings.from_env({}) == Settings()


def test_every_field_can_be_set_by_its_variable() -> None:
    """Each field reads the variable of its own name."""
    environ = {
        "FORGE_CACHE_URL": "redis://h/0",
        "FORGE_CACHE_SECRET": "s" * 16,
        "FORGE_CACHE_TTL_S": "1.5",
        "FORGE_CACHE_MAX_BYTES": "1",
        "FORGE_CACHE_NEAR_MAX_BYTES": "1",
        "FORGE_CACHE_NEAR_MAX_STALE_S": "1",
        "FORGE_CACHE_MAX_ENTRY_BYTES": "2",
        "FORGE_VECTOR_URL": "",
        "FORGE_EMBEDDER_URL": "openai://m",
        "FORGE_SEMANTIC_THRESHOLD": "0.95",
        "FORGE_SEMANTIC_THRESHOLDS": "button=0.97, card=0.9",
        "FORGE_SEMANTIC_TTL_S": "7",
        "FORGE_PATTERN_TTL_S": "8",
        "FORGE_ARCHIVE_URL": "",
        "FORGE_DATABASE_URL": "",
        "FORGE_DATABASE_DRAIN_ABOVE": "",
        "FORGE_RETENTION_DAYS": "30",
        "FORGE_OUTBOX_DIR": "",
        "FORGE_OUTBOX_DURABILITY": "power-safe",
        "FORGE_OUTBOX_WHEN_SLOW": "refuse",
        "FORGE_OUTBOX_MAX_BYTES": "3",
        "FORGE_TRACE_SPOOL_DIR": "",
        "FORGE_TRACE_SPOOL_MAX_BYTES": "5",
        "FORGE_TRACE_SPOOL_MAX_AGE_S": "6",
        "FORGE_TRACE_SAMPLE_RATE": "0.1",
        "FORGE_TRACE_SLOW_S": "",
        "FORGE_TRACE_EXPENSIVE_USD": "2.5",
        "FORGE_TRACE_BUFFER_MAX_BYTES": "7",
        "FORGE_ADMIN_TOKEN": "t" * 16,
        "FORGE_OPEN_METRICS": "yes",
        "FORGE_PIPELINE_VERSION": "9",
        "FORGE_COMPONENT_TYPES": "button, card",
        "FORGE_CRITICAL_SERVICES": "database",
        "FORGE_GENERATION_TIMEOUT_S": "60",
        "FORGE_SINGLE_FLIGHT_LEASE_S": "",
        "FORGE_MAX_BODY_BYTES": "4",
        "FORGE_CAPTURE_CONTENT": "1",
        "FORGE_BUDGET_USD": "1",
        "FORGE_BUDGET_USD_TENANT": "2",
        "FORGE_BUDGET_USD_USER": "3",
        "FORGE_BUDGET_USD_SESSION": "4",
        "FORGE_BUDGET_TOKENS": "70000",
        "FORGE_BUDGET_TOKENS_TENANT": "80000",
        "FORGE_BUDGET_TOKENS_USER": "90000",
        "FORGE_BUDGET_TOKENS_SESSION": "95000",
        "FORGE_BUDGET_MODE": "warn",
        "FORGE_BUDGET_RESERVE_USD": "0.25",
        "FORGE_BUDGET_RESERVE_TOKENS": "60000",
        "FORGE_PRICES": '{"m": {"input_usd": "2.5", "output_usd": 10}}',
        "FORGE_SHUTDOWN_TIMEOUT_S": "2",
        "FORGE_FREEZE_HEAP": "1",
    }
    assert set(environ) == {f"FORGE_{item.name.upper()}" for item in fields(Settings)}
    settings = Settings.from_env(environ)
    unchanged = [
        item.name for item in fields(Settings) if getattr(settings, item.name) == getattr(Settings(), item.name)
    ]
    assert unchanged == []
    assert settings.archive_url is None
    assert settings.component_types == ("button", "card")
    assert settings.prices == {"m": ModelPrice(input_usd=Decimal("2.5"), output_usd=Decimal(10))}


def test_every_fault_is_listed_at_once_with_secrets_masked() -> None:
    """Six faults are six lines without secrets."""
    environ = {
        "FORGE_CAHCE_URL": "memory://",
        "FORGE_ADMIN_TOKEN": "hunter2",
        "FORGE_GENERATION_TIMEOUT_S": "soon",
        "FORGE_MAX_BODY_BYTES": "-1",
        "FORGE_OUTBOX_DURABILITY": "bomb-safe",
        "FORGE_DATABASE_URL": "user:hunter2@host/db",
    }
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(environ)
    assert len(caught.value.faults) == 6
    assert "use one of kill-safe, power-safe, memory" in str(caught.value)
    assert "did you mean FORGE_CACHE_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("rate", ["0", "1"])
def test_the_bounds_of_a_rate_are_included(rate: str) -> None:
    """0 exports no ordinary trace, 1 exports all."""
    assert Settings.from_env({"FORGE_TRACE_SAMPLE_RATE": rate}).trace_sample_rate == float(rate)


@pytest.mark.parametrize("rate", ["-0.1", "1.5", "nan"])
def test_a_rate_is_a_fraction(rate: str) -> None:
    """Other values are rejected."""
    with pytest.raises(ConfigurationError, match="it must be a fraction from 0 to 1"):
        Settings.from_env({"FORGE_TRACE_SAMPLE_RATE": rate})


def test_a_foreign_variable_is_ignored() -> None:
    """A variable with our prefix that resembles no setting belongs to the application."""
    assert Settings.from_env({"FORGE_WORKSPACE": "x"}) == Settings()


def test_the_repr_contains_no_secret() -> None:
    """Tokens, passwords and query strings are never printed."""
    settings = Settings(
        admin_token="t0psecret" * 2, cache_secret="t0psecret" * 2, cache_url="redis://u:t0psecret@h?p=t0psecret"
    )
    assert "t0psecret" not in repr(settings)
    assert "redis://***@h?***" in repr(settings)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:pw@host:6379/0", "redis://***@host:6379/0"),
        ("s3://bucket?secret=pw", "s3://bucket?***"),
        ("sqlite+aiosqlite:///./.forge/forge.db", "sqlite+aiosqlite:///./.forge/forge.db"),
        ("postgresql://u:p@w@h/db", "postgresql://***@h/db"),
        ("just pw", "***"),
        (None, None),
    ],
)
def test_urls_are_shown_without_secrets(url: str | None, masked: str | None) -> None:
    """Credentials and queries are masked, host and path stay."""
    assert mask_url(url) == masked
