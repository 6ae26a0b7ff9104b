"""The ledger of an exporter as metrics."""

from collections.abc import Callable, Iterator

from forge_otel.names import Attr, Instrument, Metric
from forge_otel.telemetry.export_ledger import ExportStats
from forge_otel.telemetry.instruments import Observe

__all__ = ["export_figures"]


def export_figures(stats: Callable[[], ExportStats]) -> Iterator[tuple[Instrument, Observe]]:
    """Yield the instruments that show what `stats` says, each with the callback for its values."""
    yield Metric.EXPORT_PRODUCED, lambda: [(stats().produced, {})]
    yield Metric.EXPORT_WAITING, lambda: [(stats().waiting, {})]
    yield Metric.EXPORT_SPOOL, lambda: [(stats().spool_bytes, {})]

    def settled() -> list[tuple[float, dict[str, str | bool | int | float]]]:
        now = stats()
        found: list[tuple[float, dict[str, str | bool | int | float]]] = [
            (now.exported, {Attr.OUTCOME: "exported"}),
            (now.sampled_out, {Attr.OUTCOME: "sampled_out"}),
        ]
        found += [(count, {Attr.OUTCOME: "dropped", Attr.REASON: reason}) for reason, count in now.dropped.items()]
        return found

    yield Metric.EXPORT_SETTLED, settled
