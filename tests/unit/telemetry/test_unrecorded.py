"""Costs and failures without a record."""

from decimal import Decimal

from forge_otel.telemetry.unrecorded import UnrecordedActivity


def test_an_unknown_cost_is_counted_and_not_summed() -> None:
    """It is shown as unknown, never as 0."""
    activity = UnrecordedActivity()
    activity.add_call(Decimal("0.5"))
    activity.add_call(None)
    activity.add_failed_request()
    assert activity.figures() == {"model_calls": 2, "unpriced": 1, "cost_usd": "0.5", "failed_requests": 1}
