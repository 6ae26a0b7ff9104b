"""The ledger of an exporter as metrics."""

from collections.abc import Callable, Iterator

from forge_otel.names import Attr, Instrument, Metric
from forge_otel.telemetry.export.accounting import ExportStats
from forge_otel.telemetry.metrics.instruments import Observe

__all__ = ["export_instruments"]


def export_instruments(destination: str, stats: Callable[[], ExportStats]) -> Iterator[tuple[Instrument, Observe]]:
    """Yield the instruments that show what `stats` says, each with the callback for its values.

    Args:
        destination: names the exporter on each of them.
        stats: its books.
    """
    where = {Attr.DESTINATION: destination}
    yield Metric.EXPORT_PRODUCED, lambda: [(stats().produced, where)]
    yield Metric.EXPORT_WAITING, lambda: [(stats().waiting, where)]
    yield Metric.EXPORT_SPOOL, lambda: [(stats().spool_bytes, where)]

    def settled() -> list[tuple[float, dict[str, str | bool | int | float]]]:
        now = stats()
        found: list[tuple[float, dict[str, str | bool | int | float]]] = [
            (now.exported, {Attr.OUTCOME: "exported", **where}),
            (now.sampled_out, {Attr.OUTCOME: "sampled_out", **where}),
        ]
        for reason, count in now.dropped.items():
            found.append((count, {Attr.OUTCOME: "dropped", Attr.REASON: reason, **where}))
        return found

    yield Metric.EXPORT_SETTLED, settled
