"""Tests of the errors of the library; their catalog is tested in tests/test_docs.py."""

import pytest

from forge_otel.errors import CircuitOpen, ConfigurationError, ForgeError, MissingExtra, ServiceTimeout, needs


def test_a_configuration_error_lists_every_fault() -> None:
    """One line for each."""
    error = ConfigurationError(["a is negative", "b is unknown"])
    assert str(error) == "2 invalid settings:\n  - a is negative\n  - b is unknown"
    assert str(ConfigurationError(["a is negative"])).startswith("1 invalid setting:")


def test_a_missing_package_names_its_extra() -> None:
    """The message has the command to run, and the import error is the cause."""
    with pytest.raises(MissingExtra, match=r"pip install 'forge-otel\[redis\]'") as raised, needs("redis"):
        raise ModuleNotFoundError("No module named 'redis'", name="redis")
    assert (raised.value.extra, raised.value.package) == ("redis", "redis")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_other_errors_pass_needs() -> None:
    """Only a failed import means a missing package."""
    with pytest.raises(ZeroDivisionError), needs("redis"):
        raise ZeroDivisionError


def test_facts_are_attributes() -> None:
    """Programs need not parse the message."""
    error = CircuitOpen("openai", retry_after_s=12.4)
    assert (error.name, error.retry_after_s, error.status, error.code) == ("openai", 12.4, 503, "circuit_open")


def test_a_service_timeout_is_a_timeout_error() -> None:
    """Code that handles `TimeoutError` handles it too."""
    assert issubclass(ServiceTimeout, ForgeError)
    assert issubclass(ServiceTimeout, TimeoutError)
