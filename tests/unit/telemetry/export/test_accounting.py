"""Every span of an exporter is in exactly one count."""

from types import MappingProxyType

from tests.unit.telemetry.bridge import is_balanced

from forge_otel.names import Metric
from forge_otel.telemetry.export.accounting import ExportStats, SpanAccounting, export_points


def test_spans_move_from_waiting_to_one_outcome() -> None:
    """Each outcome reduces `waiting`, an overflow never enters it."""
    accounting = SpanAccounting()
    accounting.add_produced(10, overflow=2)
    accounting.add_adopted(5)
    accounting.mark_exported(4)
    accounting.mark_sampled_out(3)
    accounting.mark_dropped(2, "refused")
    stats = accounting.stats()
    assert (stats.produced, stats.waiting, stats.exported, stats.sampled_out) == (17, 6, 4, 3)
    assert dict(stats.dropped) == {"queue_full": 2, "refused": 2}
    assert is_balanced(stats)


def test_closing_drops_the_spans_that_are_not_on_disk() -> None:
    """Spans on disk stay `waiting`; a thread that reports later changes nothing."""
    accounting = SpanAccounting()
    accounting.add_produced(10)
    assert accounting.close(kept=4) == 6
    accounting.mark_exported(4)
    stats = accounting.stats()
    assert (stats.waiting, stats.exported, dict(stats.dropped)) == (4, 0, {"shutdown": 6})
    assert is_balanced(stats)


def test_each_count_is_a_point_with_its_destination() -> None:
    """Outcomes are one metric with `forge.outcome`, drops have their reason too."""
    stats = ExportStats(
        produced=10, exported=4, waiting=3, sampled_out=1, dropped=MappingProxyType({"refused": 2}), spool_bytes=99
    )
    points = {instrument: points_of(stats) for instrument, points_of in export_points("otlp").items()}
    where = {"forge.destination": "otlp"}
    assert points == {
        Metric.EXPORT_PRODUCED: [(10, where)],
        Metric.EXPORT_WAITING: [(3, where)],
        Metric.EXPORT_SPOOL: [(99, where)],
        Metric.EXPORT_SETTLED: [
            (4, {"forge.outcome": "exported", **where}),
            (1, {"forge.outcome": "sampled_out", **where}),
            (2, {"forge.outcome": "dropped", "reason": "refused", **where}),
        ],
    }
