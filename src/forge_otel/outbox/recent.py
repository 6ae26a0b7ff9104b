"""Sink that keeps the newest records in memory, for the dashboard."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from forge_otel.types import Record

__all__ = ["RecentRecords"]


class RecentRecords:
    """Ring buffer of the newest records, without the contents of their artifacts.

    Args:
        capacity: maximum number of records.
    """

    name = "recent"

    def __init__(self, capacity: int = 500) -> None:
        self._records: deque[Record] = deque(maxlen=capacity)

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the records; ids that are stored already are skipped."""
        present = {record.id for record in self._records}
        new = {record.id: replace(record, artifacts={}) for record in records if record.id not in present}
        self._records.extend(new.values())

    def records(
        self, limit: int = 50, *, component_type: str | None = None, outcome: str | None = None
    ) -> list[Record]:
        """Return matching records, newest first.

        Args:
            limit: maximum number of records.
            component_type: only this type.
            outcome: only this outcome, for example `"error"`.
        """
        found = (
            record
            for record in sorted(self._records, key=lambda record: record.id, reverse=True)
            if component_type in {None, record.component_type} and outcome in {None, record.outcome}
        )
        return [record for record, _ in zip(found, range(max(0, limit)), strict=False)]

    def get(self, generation_id: str) -> Record | None:
        """Return the record of a generation, or None if it is unknown or was evicted."""
        return next((record for record in self._records if record.id == generation_id), None)
