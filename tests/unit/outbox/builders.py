"""Outboxes, failing sinks and journals of dead services for the tests of this room."""

from collections.abc import Sequence
from pathlib import Path

from tests.unit.sinks.builders import ListSink

from forge_otel.outbox.outbox import Outbox, OutboxOptions, SinkStats
from forge_otel.types import Record, Sink

MAX_BYTES = 64 * 2**20


def outbox(directory: Path | None, *sinks: Sink, max_bytes: int = MAX_BYTES, shutdown_timeout_s: float = 5.0) -> Outbox:
    """Return an outbox with the usual limits."""
    return Outbox(sinks, OutboxOptions(directory=directory, max_bytes=max_bytes, shutdown_timeout_s=shutdown_timeout_s))


def is_balanced(stats: SinkStats) -> bool:
    """Return whether every record is in exactly one of the counters."""
    return stats.produced == stats.delivered + stats.waiting + sum(stats.dropped.values())


def journals(directory: Path) -> list[Path]:
    """Return the journal files in a folder."""
    return sorted(directory.glob("*.journal"))


class DownSink(ListSink):
    """Sink that is unavailable until its fault is removed."""

    def __init__(self, name: str = "list") -> None:
        super().__init__()
        self.name = name
        self.fault = ConnectionError("refused")


async def left_behind(directory: Path, records: Sequence[Record], *, sink: ListSink | None = None) -> Path:
    """Return a folder with the journal of a service that ended while its sink was unavailable."""
    async with outbox(directory, sink or DownSink()) as box:
        for item in records:
            await box.offer(item)
    return directory
