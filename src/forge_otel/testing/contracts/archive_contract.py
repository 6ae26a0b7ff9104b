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
    """The behaviour of an `Archive`; subclasses provide a fixture `archive` that is open and empty."""

    async def test_artifacts_have_a_fixed_layout(self, archive: Archive) -> None:
        """Artifacts and manifest are in the folder of the component, the quality report is below `reports/`."""
        await archive.deliver([_generation()])
        assert await _keys(archive) == [
            "components/button-1/component.tsx",
            "components/button-1/manifest.json",
            "components/button-1/screenshot.png",
            "reports/button-1/quality-report.html",
        ]

    async def test_artifacts_are_stored_unchanged(self, archive: Archive) -> None:
        """An empty artifact, every byte, non-ASCII text and a megabyte are read back unchanged."""
        contents = {"empty": b"", "every": bytes(range(256)), "large": bytes(2**20), "text": "größer ≥".encode()}
        await archive.deliver([_generation(contents)])
        assert {name: await archive.read(f"components/button-1/{name}") for name in contents} == contents

    async def test_the_manifest_names_the_generation_and_the_hashes(self, archive: Archive) -> None:
        """Every artifact can be verified with the manifest."""
        record = _generation()
        await archive.deliver([record])
        manifest = orjson.loads(await archive.read("components/button-1/manifest.json"))
        report = await archive.read("reports/button-1/quality-report.html")
        assert (manifest["generation_id"], manifest["created_at"]) == (record.id, "2026-04-01T12:00:00.000000+00:00")
        assert manifest["artifacts"]["quality-report.html"] == {
            "sha256": hashlib.sha256(report).hexdigest(),
            "size_bytes": len(report),
        }

    async def test_a_repeated_delivery_changes_nothing(self, archive: Archive) -> None:
        """A record with the same contents, such as a cache hit, does not replace the manifest either."""
        first = _generation()
        await archive.deliver([first])
        before = [found async for found in archive.list()]
        await archive.deliver([first, _generation(created_at=_NOON + timedelta(hours=1))])
        assert [found async for found in archive.list()] == before
        manifest = orjson.loads(await archive.read("components/button-1/manifest.json"))
        assert manifest["generation_id"] == first.id

    async def test_a_newer_generation_replaces_an_older_one(self, archive: Archive) -> None:
        """Artifacts that the newer one lacks are removed; a late older one changes nothing, alone or in a batch."""
        older, newer = _generation(), _generation({"component.tsx": "v2"}, created_at=_NOON + timedelta(hours=1))
        await archive.deliver([older])
        for batch in ([newer], [older], [newer, older], [older, newer]):
            await archive.deliver(batch)
            assert await archive.read("components/button-1/component.tsx") == b"v2"
        assert await _keys(archive) == ["components/button-1/component.tsx", "components/button-1/manifest.json"]

    async def test_records_without_artifacts_store_nothing(self, archive: Archive) -> None:
        """A failed generation has no folder."""
        await archive.deliver([_generation({})])
        assert await _keys(archive) == []

    async def test_an_unsafe_component_id_is_rejected(self, archive: Archive) -> None:
        """No file is written or deleted for an id that is not a plain folder name."""
        for component_id in ("..", ".", "a/b", "../x", "/etc", "a\0b", "", "x" * 129, "a b", "ä"):
            await _raises(Rejected, archive.deliver([_generation(component_id=component_id)]))
            await _raises(Rejected, archive.delete(component_id))
        assert await _keys(archive) == []

    async def test_an_unsafe_artifact_name_is_rejected(self, archive: Archive) -> None:
        """No file is written for a name that is not a plain file name or is reserved by the archive."""
        for name in ("../x", "a/b", "..", "", "manifest.json", ".forge-tmp-1", "a\0"):
            await _raises(Rejected, archive.deliver([_generation({"fine.txt": "x", name: "y"})]))
        assert await _keys(archive) == []

    async def test_only_archived_keys_can_be_read(self, archive: Archive) -> None:
        """A missing or invalid key raises `NotFound`."""
        await archive.deliver([_generation()])
        for key in ("components/button-1/other", "components/../../etc/passwd", "components/button-1", "", "a/b/c"):
            await _raises(NotFound, archive.read(key))

    async def test_listing_is_filtered_by_prefix_and_sorted(self, archive: Archive) -> None:
        """Each listed key has its size and modification time."""
        await archive.deliver([_generation(component_id=f"c{number:02}") for number in range(20)])
        everything = await _keys(archive)
        some = [found async for found in archive.list("components/c0")]
        assert (len(everything), everything) == (80, sorted(everything))
        assert [found.key for found in some] == [key for key in everything if key.startswith("components/c0")]
        assert some[0].size_bytes == len("export {}")
        # An object store stamps objects with its own clock.
        assert abs(some[0].modified_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert await _keys(archive, "elsewhere/") == []

    async def test_deleting_a_component_counts_its_files(self, archive: Archive) -> None:
        """Its report is deleted as well; a component whose id begins alike is not."""
        await archive.deliver([_generation(component_id=component_id) for component_id in ("c1", "c10")])
        assert await archive.delete("c1") == 4
        assert await archive.delete("c1") == 0
        assert {key.split("/")[1] for key in await _keys(archive)} == {"c10"}

    async def test_ping_succeeds_and_stores_nothing(self, archive: Archive) -> None:
        """No key is listed afterwards."""
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
