"""Metrics of an exporter's span counts."""

from collections.abc import Callable, Iterator

from forge_otel.names import Attr, Instrument, Metric
from forge_otel.telemetry.export.accounting import ExportStats
from forge_otel.telemetry.metrics.instruments import Observe

__all__ = ["export_instruments"]


def export_instruments(destination: str, stats: Callable[[], ExportStats]) -> Iterator[tuple[Instrument, Observe]]:
    """Yield the instruments of an exporter, each with its callback.

    Args:
        destination: value of the attribute that names the exporter.
        stats: returns the exporter's counts.
    """
    attributes = {Attr.DESTINATION: destination}
    yield Metric.EXPORT_PRODUCED, lambda: [(stats().produced, attributes)]
    yield Metric.EXPORT_WAITING, lambda: [(stats().waiting, attributes)]
    yield Metric.EXPORT_SPOOL, lambda: [(stats().spool_bytes, attributes)]

    def settled() -> list[tuple[float, dict[str, str | bool | int | float]]]:
        current = stats()
        points: list[tuple[float, dict[str, str | bool | int | float]]] = [
            (current.exported, {Attr.OUTCOME: "exported", **attributes}),
            (current.sampled_out, {Attr.OUTCOME: "sampled_out", **attributes}),
        ]
        for reason, count in current.dropped.items():
            points.append((count, {Attr.OUTCOME: "dropped", Attr.REASON: reason, **attributes}))
        return points

    yield Metric.EXPORT_SETTLED, settled
