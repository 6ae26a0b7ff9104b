"""The archive in a bucket, on an emulator and on a strict server."""

import time
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.integration.sinks.s3.archives import CAPTIVE, CODE, ITEM, open_archive
from tests.unit.sinks.builders import record

from forge_otel.errors import BadRequest, NotOpen, ServiceTimeout, ServiceUnavailable
from forge_otel.sinks.archive import ArchiveUsage, measure
from forge_otel.sinks.s3.sink import S3Archive
from forge_otel.testing.contracts.archive_contract import ArchiveContract
from forge_otel.testing.faults.proxy import FaultProxy, Silent


class TestS3Archive(ArchiveContract):
    """The contract of archives."""


async def test_a_closed_archive_is_an_error(bucket: str, s3_endpoint: str) -> None:
    """Before it is entered and after it is left, no request is made."""
    archive = open_archive(bucket, s3_endpoint)
    with pytest.raises(NotOpen, match="async with"):
        await archive.ping()
    for _ in range(2):
        async with archive:
            await archive.ping()
    with pytest.raises(NotOpen):
        await archive.read(CODE)


async def test_a_prefix_is_in_front_of_every_key(bucket: str, s3_endpoint: str, s3: Any) -> None:
    """Two services in one bucket neither see nor delete each other's artifacts."""
    async with (
        open_archive(bucket, s3_endpoint, prefix="team/one") as one,
        open_archive(bucket, s3_endpoint, prefix="team/two") as two,
    ):
        await one.deliver([ITEM])
        await two.deliver([ITEM])
        assert await two.delete("button-1") == 2
        assert [found.key async for found in one.list()] == [CODE, "components/button-1/manifest.json"]

    stored = await s3.list_objects_v2(Bucket=bucket)
    assert {found["Key"].split("/components/")[0] for found in stored["Contents"]} == {"team/one"}


async def test_several_pages_are_listed_and_deleted(archive: S3Archive) -> None:
    """S3 lists 1,000 keys per page; all 1,105 are listed, and all are deleted."""
    artifacts: dict[str, str | bytes] = {f"{number:04}.json": "{}" for number in range(1_104)}
    await archive.deliver([record(artifacts=artifacts)])

    assert len([found async for found in archive.list()]) == 1_105
    assert await archive.delete("button-1") == 1_105
    assert [found async for found in archive.list()] == []


async def test_versions_are_deleted_on_request(archive: S3Archive, bucket: str, s3: Any) -> None:
    """With versioning a deletion only hides objects; with `versions` all versions and markers are deleted."""
    await s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    await archive.deliver([ITEM])
    await archive.delete("button-1")
    hidden = await s3.list_object_versions(Bucket=bucket)

    assert await archive.delete("button-1", versions=True) == 4
    left = await s3.list_object_versions(Bucket=bucket)
    assert (len(hidden["Versions"]), len(hidden["DeleteMarkers"])) == (2, 2)
    assert ("Versions" in left, "DeleteMarkers" in left) == (False, False)


async def test_presigned_urls_are_sigv4_and_valid_for_at_most_seven_days(archive: S3Archive) -> None:
    """The default is one hour; a validity that the server would reject is an error."""
    query = parse_qs(urlsplit(await archive.presigned_get(CODE)).query)
    assert (query["X-Amz-Algorithm"], query["X-Amz-Expires"]) == (["AWS4-HMAC-SHA256"], ["3600"])
    await archive.presigned_get(CODE, expires_s=7 * 24 * 3600)
    for expires_s in (0, 7 * 24 * 3600 + 1):
        with pytest.raises(BadRequest, match="presigned"):
            await archive.presigned_get(CODE, expires_s=expires_s)
        with pytest.raises(BadRequest, match="presigned"):
            await archive.presigned_put(CODE, expires_s=expires_s)


async def test_a_presigned_put_stores_one_object(archive: S3Archive) -> None:
    """The signature covers the headers that make browsers download it; a manifest cannot be uploaded."""
    allowed = await archive.presigned_put(CODE)
    async with httpx.AsyncClient() as client:
        (await client.put(allowed.url, content=b"export {}", headers=allowed.headers)).raise_for_status()

    assert await archive.read(CODE) == b"export {}"
    assert "content-disposition" in parse_qs(urlsplit(allowed.url).query)["X-Amz-SignedHeaders"][0]
    with pytest.raises(BadRequest, match="manifest"):
        await archive.presigned_put("components/button-1/manifest.json")


async def test_older_versions_are_listed_and_measured(archive: S3Archive, bucket: str, s3: Any) -> None:
    """Overwritten objects are counted where the bucket keeps their versions."""
    await archive.prepare_bucket()
    for content in ("one", "other"):
        await archive.deliver([record(artifacts={"component.tsx": content})])
    current, versions = await measure(archive.list()), await measure(archive.list_versions())

    assert (current.objects, versions.objects) == (2, 4)
    assert versions.size_bytes > current.size_bytes > len("other")
    assert ArchiveUsage(objects=1, size_bytes=2**40).monthly_usd() == Decimal("23.552")


async def test_a_ping_ends_after_two_seconds(bucket: str, proxy: FaultProxy) -> None:
    """Independent of the timeout of uploads."""
    async with open_archive(bucket, f"http://127.0.0.1:{proxy.port}", timeout_s="60") as archive:
        proxy.set(Silent())
        started_s = time.perf_counter()
        with pytest.raises(ServiceTimeout):
            await archive.ping()
        assert time.perf_counter() - started_s < 3


async def test_a_login_page_is_an_error(proxied: S3Archive, proxy: FaultProxy) -> None:
    """Well-formed HTML is neither an empty bucket nor a successful deletion."""
    async with proxy.fault(CAPTIVE):
        with pytest.raises(ServiceUnavailable, match="not from this bucket"):
            await proxied.ping()
        with pytest.raises(ServiceUnavailable, match="not from this bucket"):
            await proxied.delete("button-1")
        with pytest.raises(ServiceUnavailable, match="deletion"):
            await proxied._remove({"Key": CODE})
