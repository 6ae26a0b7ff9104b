"""Checks of options that report every fault at once."""

from forge_otel.errors import ConfigurationError

__all__ = ["require"]


def require(*checks: tuple[bool, str]) -> None:
    """Raise one error that lists the message of every check that failed.

    Args:
        checks: pairs of a condition that must hold and the error message otherwise.

    Raises:
        ConfigurationError: a condition does not hold.
    """
    faults = [message for holds, message in checks if not holds]
    if faults:
        raise ConfigurationError(faults)
