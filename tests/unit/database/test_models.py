"""Column types of the tables."""

from decimal import Decimal

from forge_otel.database.models import NanoUsd


def test_money_below_a_billionth_is_rounded_to_even() -> None:
    """Amounts below a nano-dollar are rounded, not truncated."""
    bind = NanoUsd().process_bind_param

    assert [bind(Decimal(amount), None) for amount in ("1.5E-9", "2.5E-9", "-1.5E-9", "1E-10")] == [2, 2, -2, 0]  # type: ignore[arg-type]
