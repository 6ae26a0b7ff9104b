"""Layout, manifests and size of archives, without storage."""

import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from tests.unit.sinks.builders import record

from forge_otel.errors import NotFound, Rejected
from forge_otel.sinks.archive import ArchivedObject, ArchiveUsage, Bundle, bundle_keys, check_key, folders, measure

AT = datetime(2026, 3, 1, tzinfo=UTC)
ARTIFACTS = {"component.tsx": "export {}", "quality-report.html": "<html>"}


def test_a_bundle_has_keys_and_a_manifest() -> None:
    """Reports have an area of their own; the manifest lists size and SHA-256 of each artifact."""
    item = record(artifacts=ARTIFACTS)

    bundle = Bundle.of(item)

    assert bundle.objects.keys() == {"components/button-1/component.tsx", "reports/button-1/quality-report.html"}
    assert bundle_keys("button-1", bundle.manifest) == set(bundle.objects)
    manifest = json.loads(bundle.manifest)
    assert manifest["generation_id"] == item.id
    sha256 = hashlib.sha256(b"export {}").hexdigest()
    assert manifest["artifacts"]["component.tsx"] == {"sha256": sha256, "size_bytes": 9}


def test_a_later_generation_outdates_a_bundle() -> None:
    """Records may be delivered out of order; the generation that began later is kept."""
    earlier, later = (Bundle.of(record(created_at=AT + timedelta(seconds=s), artifacts=ARTIFACTS)) for s in (0, 1))

    assert earlier.is_outdated_by(later.manifest)
    assert not later.is_outdated_by(earlier.manifest)
    assert earlier.has_contents_of(later.manifest)
    assert not earlier.has_contents_of(Bundle.of(record(artifacts={"component.tsx": "other"})).manifest)


@pytest.mark.parametrize("manifest", [b"", b"[]", b'{"artifacts": 1}', b'{"artifacts": {"../x": {}}}'])
def test_an_unreadable_manifest_lists_nothing(manifest: bytes) -> None:
    """It neither outdates a bundle nor names keys to delete."""
    assert bundle_keys("button-1", manifest) == set()
    assert not Bundle.of(record(artifacts=ARTIFACTS)).is_outdated_by(manifest)


@pytest.mark.parametrize("name", ["manifest.json", ".forge-tmp-1", "../x", "a/b"])
def test_a_reserved_or_invalid_name_is_rejected(name: str) -> None:
    """The record can never be stored."""
    with pytest.raises(Rejected):
        Bundle.of(record(artifacts={name: "x"}))


@pytest.mark.parametrize("key", ["", "x", "components/a", "other/a/b", "components/../b", "components/a/b/c"])
def test_an_invalid_key_is_not_found(key: str) -> None:
    """A key has an area, a component id and a name."""
    with pytest.raises(NotFound):
        check_key(key)


def test_a_component_has_a_folder_in_each_area() -> None:
    """Deleting a component deletes both."""
    assert folders("button-1") == ("components/button-1/", "reports/button-1/")
    with pytest.raises(Rejected):
        folders("..")


async def test_usage_is_the_sum_of_a_listing() -> None:
    """Number, size and price per month."""

    async def listing() -> AsyncIterator[ArchivedObject]:
        for size_bytes in (2**30, 2**29):
            yield ArchivedObject("components/a/b", size_bytes, AT)

    usage = await measure(listing())

    assert usage == ArchiveUsage(objects=2, size_bytes=3 * 2**29)
    assert usage.monthly_usd(Decimal("0.02")) == Decimal("0.03")
