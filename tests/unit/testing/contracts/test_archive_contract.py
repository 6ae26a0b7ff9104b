"""The contract suite of archives catches a broken archive; tests/unit/sinks/files/test_sink.py passes it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from forge_otel.sinks.files.sink import FileArchive
from forge_otel.testing.contracts.archive_contract import ArchiveContract
from forge_otel.types import Record


class Forgetful(FileArchive):
    """Archives only the first record of a batch."""

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Archive one record."""
        await super().deliver(records[:1])


async def test_an_archive_that_loses_records_fails(tmp_path: Path) -> None:
    """Every delivered component must be listed."""
    async with FileArchive(tmp_path / "complete") as archive:
        await ArchiveContract().test_listing_is_filtered_by_prefix_and_sorted(archive)
    async with Forgetful(tmp_path / "partial") as archive:
        with pytest.raises(AssertionError):
            await ArchiveContract().test_listing_is_filtered_by_prefix_and_sorted(archive)
