"""Miss reasons in words."""

import pytest

from forge_otel.cli._miss_reasons import describe


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("value_gate", "similar wording, but a value differs, such as a number (value_gate)"),
        ("expired", "the TTL of the entry had passed (expired)"),
        ("reason_of_a_third_party", "reason_of_a_third_party"),
    ],
)
def test_a_reason_is_described_and_named(reason: str, shown: str) -> None:
    """The name in metrics follows the description; an unknown reason is shown as it is."""
    assert describe(reason) == shown
