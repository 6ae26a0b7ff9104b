"""Every fault of some options is reported at once."""

import pytest

from forge_otel._internal.checks import require
from forge_otel.errors import ConfigurationError


def test_all_failed_checks_are_listed() -> None:
    """Those that hold are not."""
    with pytest.raises(ConfigurationError) as caught:
        require((True, "fine"), (False, "first"), (False, "second"))
    assert list(caught.value.faults) == ["first", "second"]


def test_checks_that_hold_pass() -> None:
    """Nothing is raised."""
    require((True, "fine"))
    require()
