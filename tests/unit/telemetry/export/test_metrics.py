"""Span counts of an exporter as metrics."""

from types import MappingProxyType

from forge_otel.names import Metric
from forge_otel.telemetry.export.accounting import ExportStats
from forge_otel.telemetry.export.metrics import export_instruments

STATS = ExportStats(
    produced=10, exported=4, waiting=3, sampled_out=1, dropped=MappingProxyType({"refused": 2}), spool_bytes=99
)


def test_each_count_is_a_point_with_its_destination() -> None:
    """Outcomes are one metric with `forge.outcome`, drops have their reason too."""
    points = {instrument: observe() for instrument, observe in export_instruments("otlp", lambda: STATS)}
    where = {"forge.destination": "otlp"}
    assert points[Metric.EXPORT_PRODUCED] == [(10, where)]
    assert points[Metric.EXPORT_WAITING] == [(3, where)]
    assert points[Metric.EXPORT_SPOOL] == [(99, where)]
    assert points[Metric.EXPORT_SETTLED] == [
        (4, {"forge.outcome": "exported", **where}),
        (1, {"forge.outcome": "sampled_out", **where}),
        (2, {"forge.outcome": "dropped", "reason": "refused", **where}),
    ]
