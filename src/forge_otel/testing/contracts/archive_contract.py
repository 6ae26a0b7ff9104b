"""Contract suite for archives: the behaviour that every implementation of `Archive` must have."""

import hashlib
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import orjson

from forge_otel._internal.ids import new_id
from forge_otel.errors import ForgeError, NotFound, Rejected
from forge_otel.sinks.archive import Archive
from forge_otel.types import Record

__all__ = ["ArchiveContract"]

_NOON: Final = datetime(2026, 4, 1, 12, tzinfo=UTC)
_ARTIFACTS: Final[Mapping[str, str | bytes]] = {
    "component.tsx": "export {}",
    "screenshot.png": b"\x89PNG\x00",
    "quality-report.html": "<html>",
}


class ArchiveContract:
    """The behaviour of an `Archive`; subclass it and give a fixture named `archive` that is open and empty."""

    async def test_the_layout_is_the_same_everywhere(self, archive: Archive) -> None:
        """Artifacts and manifest lie in the component's folder, the report among the reports."""
        await archive.deliver([_generation()])
        assert await _keys(archive) == [
            "components/button-1/component.tsx",
            "components/button-1/manifest.json",
            "components/button-1/screenshot.png",
            "reports/button-1/quality-report.html",
        ]

    async def test_any_bytes_survive(self, archive: Archive) -> None:
        """Nothing, every byte, text outside of ASCII and a megabyte come back as they were."""
        contents = {"empty": b"", "every": bytes(range(256)), "large": bytes(2**20), "text": "größer ≥".encode()}
        await archive.deliver([_generation(contents)])
        assert {name: await archive.read(f"components/button-1/{name}") for name in contents} == contents

    async def test_the_manifest_names_the_generation_and_the_hashes(self, archive: Archive) -> None:
        """Whoever reads the manifest can check every artifact."""
        record = _generation()
        await archive.deliver([record])
        manifest = orjson.loads(await archive.read("components/button-1/manifest.json"))
        report = await archive.read("reports/button-1/quality-report.html")
        assert (manifest["generation_id"], manifest["created_at"]) == (record.id, "2026-04-01T12:00:00.000000+00:00")
        assert manifest["artifacts"]["quality-report.html"] == {
            "sha256": hashlib.sha256(report).hexdigest(),
            "size_bytes": len(report),
        }

    async def test_the_same_contents_again_change_nothing(self, archive: Archive) -> None:
        """A repeated delivery, or a cache hit with the same contents, leaves what is there alone."""
        first = _generation()
        await archive.deliver([first])
        before = [found async for found in archive.list()]
        await archive.deliver([first, _generation(created_at=_NOON + timedelta(hours=1))])
        assert [found async for found in archive.list()] == before
        manifest = orjson.loads(await archive.read("components/button-1/manifest.json"))
        assert manifest["generation_id"] == first.id

    async def test_a_newer_generation_replaces_an_older_one(self, archive: Archive) -> None:
        """What the newer one no longer has is removed, and a late older one changes nothing, alone or in a batch."""
        older, newer = _generation(), _generation({"component.tsx": "v2"}, created_at=_NOON + timedelta(hours=1))
        await archive.deliver([older])
        for batch in ([newer], [older], [newer, older], [older, newer]):
            await archive.deliver(batch)
            assert await archive.read("components/button-1/component.tsx") == b"v2"
        assert await _keys(archive) == ["components/button-1/component.tsx", "components/button-1/manifest.json"]

    async def test_records_without_artifacts_store_nothing(self, archive: Archive) -> None:
        """A failed generation leaves nothing behind."""
        await archive.deliver([_generation({})])
        assert await _keys(archive) == []

    async def test_a_component_id_that_is_no_folder_is_rejected(self, archive: Archive) -> None:
        """Nothing is written or deleted for an id that could lead elsewhere."""
        for component_id in ("..", ".", "a/b", "../x", "/etc", "a\0b", "", "x" * 129, "a b", "ä"):
            await _raises(Rejected, archive.deliver([_generation(component_id=component_id)]))
            await _raises(Rejected, archive.delete(component_id))
        assert await _keys(archive) == []

    async def test_an_artifact_name_that_is_no_file_is_rejected(self, archive: Archive) -> None:
        """Nothing is written for a name that could lead elsewhere or that the archive needs itself."""
        for name in ("../x", "a/b", "..", "", "manifest.json", ".forge-tmp-1", "a\0"):
            await _raises(Rejected, archive.deliver([_generation({"fine.txt": "x", name: "y"})]))
        assert await _keys(archive) == []

    async def test_only_what_was_archived_can_be_read(self, archive: Archive) -> None:
        """What is not there, or could not be, is not found."""
        await archive.deliver([_generation()])
        for key in ("components/button-1/other", "components/../../etc/passwd", "components/button-1", "", "a/b/c"):
            await _raises(NotFound, archive.read(key))

    async def test_listing_goes_by_prefix_and_in_order(self, archive: Archive) -> None:
        """All keys below a prefix, with size and time."""
        await archive.deliver([_generation(component_id=f"c{number:02}") for number in range(20)])
        everything = await _keys(archive)
        some = [found async for found in archive.list("components/c0")]
        assert (len(everything), everything) == (80, sorted(everything))
        assert [found.key for found in some] == [key for key in everything if key.startswith("components/c0")]
        assert some[0].size_bytes == len("export {}")
        assert abs(some[0].modified_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert await _keys(archive, "elsewhere/") == []

    async def test_deleting_takes_one_component_and_counts(self, archive: Archive) -> None:
        """All of one component goes, report included; a name that begins alike stays."""
        await archive.deliver([_generation(component_id=component_id) for component_id in ("c1", "c10")])
        assert await archive.delete("c1") == 4
        assert await archive.delete("c1") == 0
        assert {key.split("/")[1] for key in await _keys(archive)} == {"c10"}

    async def test_an_archive_that_works_answers(self, archive: Archive) -> None:
        """Pinging stores nothing that could be seen."""
        await archive.ping()
        assert await _keys(archive) == []


def _generation(
    artifacts: Mapping[str, str | bytes] = _ARTIFACTS, *, component_id: str = "button-1", created_at: datetime = _NOON
) -> Record:
    return Record(
        id=new_id(),
        created_at=created_at,
        duration_s=58.5,
        outcome="ok",
        pipeline="components",
        pipeline_version="1",
        component_type="button",
        component_id=component_id,
        key="a" * 64,
        cost_usd=Decimal("0.42"),
        artifacts=dict(artifacts),
    )


async def _keys(archive: Archive, prefix: str = "") -> list[str]:
    return [found.key async for found in archive.list(prefix)]


async def _raises(kind: type[ForgeError], work: Awaitable[object]) -> None:
    try:
        await work
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")
