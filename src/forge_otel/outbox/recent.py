"""The last records in memory, for the dashboard and for looking at what just happened."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from forge_otel.types import Record

__all__ = ["RecentRecords"]


class RecentRecords:
    """Keeps the last records without the contents of their artifacts, newest first.

    Args:
        capacity: how many.
    """

    name = "recent"

    def __init__(self, capacity: int = 500) -> None:
        self._records: deque[Record] = deque(maxlen=capacity)

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Keep the records; one that is there already is left as it is."""
        present = {record.id for record in self._records}
        new = {record.id: replace(record, artifacts={}) for record in records if record.id not in present}
        self._records.extend(new.values())

    def records(
        self, limit: int = 50, *, component_type: str | None = None, outcome: str | None = None
    ) -> list[Record]:
        """Return the newest records first.

        Args:
            limit: at most so many.
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
        """Return the record of one generation, if it is still here."""
        return next((record for record in self._records if record.id == generation_id), None)
