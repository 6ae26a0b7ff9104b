"""Uploads: verified, encrypted, compressed, in parts, and cancelled."""

import asyncio
import gzip
import hashlib
import json
from typing import Any

import httpx
import pytest
from tests.integration.sinks.s3.archives import CAPTIVE, CODE, ITEM, LARGE, SLOW_DOWN, open_archive
from tests.unit.sinks.builders import record

from forge_otel.errors import ServiceUnavailable
from forge_otel.sinks.archive import Bundle
from forge_otel.sinks.s3.sink import S3Archive
from forge_otel.testing.faults.http import HttpAnswer
from forge_otel.testing.faults.proxy import FaultProxy, Refuse


@pytest.mark.parametrize(
    ("name", "content_type", "disposition"),
    [
        ("component.tsx", "text/plain; charset=utf-8", 'attachment; filename="component.tsx"'),
        ("tokens.json", "application/json", 'attachment; filename="tokens.json"'),
        ("quality-report.html", "text/html; charset=utf-8", 'attachment; filename="quality-report.html"'),
        ("icon.svg", "image/svg+xml", 'attachment; filename="icon.svg"'),
        ("screenshot.png", "image/png", None),
    ],
)
async def test_contents_with_scripts_are_attachments(
    archive: S3Archive, name: str, content_type: str, disposition: str | None
) -> None:
    """A presigned URL serves every type as a download, except images without scripts."""
    await archive.deliver([record(artifacts={name: "x"})])
    room = "reports" if name.endswith(".html") else "components"
    url = await archive.presigned_get(f"{room}/button-1/{name}")
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(url)

    assert answer.content == b"x"
    assert answer.headers["content-type"] == content_type
    assert answer.headers.get("content-disposition") == disposition


@pytest.mark.parametrize(("sse", "stored"), [("auto", "AES256"), ("AES256", "AES256"), ("none", None)])
async def test_encryption(
    bucket: str, s3_endpoint: str, s3: Any, is_emulator: bool, sse: str, stored: str | None
) -> None:
    """AES256 is requested unless it is disabled; where it is required, a store without it is an error."""
    async with open_archive(bucket, s3_endpoint, sse=sse) as archive:
        if sse == "AES256" and not is_emulator:
            with pytest.raises(ServiceUnavailable, match="does not encrypt"):
                await archive.deliver([ITEM])
            return
        await archive.deliver([ITEM])

    found = (await s3.head_object(Bucket=bucket, Key=CODE)).get("ServerSideEncryption")
    assert found == (stored if is_emulator else None)


async def test_texts_are_compressed_on_request(bucket: str, s3_endpoint: str, s3: Any) -> None:
    """Browsers and `read` decompress; images and short texts are unchanged; the manifest describes plain bytes."""
    code, picture = "export const a = 1;\n" * 1_000, bytes(5_000)
    item = record(artifacts={"component.tsx": code, "shot.png": picture, "tokens.json": "{}"})
    async with open_archive(bucket, s3_endpoint, compress="gzip") as archive:
        await archive.deliver([item])
        assert (await archive.read(CODE)).decode() == code
        sizes = {found.key.rpartition("/")[2]: found.size_bytes async for found in archive.list()}
        url = await archive.presigned_get(CODE)
        manifest = json.loads(await archive.read("components/button-1/manifest.json"))
    async with httpx.AsyncClient() as client:
        answer = await client.get(url)

    assert sizes["component.tsx"] < len(code) / 10
    assert (sizes["shot.png"], sizes["tokens.json"]) == (5_000, 2)
    assert (answer.headers["content-encoding"], answer.text) == ("gzip", code)
    assert answer.headers["content-disposition"].startswith("attachment")
    listed = manifest["artifacts"]["component.tsx"]
    assert listed == {"sha256": hashlib.sha256(code.encode()).hexdigest(), "size_bytes": len(code)}


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(bytes(10_000))[:40]])
async def test_invalid_gzip_is_an_error(archive: S3Archive, bucket: str, s3: Any, body: bytes) -> None:
    """Neither other bytes nor a truncated stream are returned as content."""
    await s3.put_object(Bucket=bucket, Key=CODE, Body=body, ContentEncoding="gzip")
    with pytest.raises(ServiceUnavailable, match="gzip"):
        await archive.read(CODE)


async def test_a_large_object_is_sent_in_parts(archive: S3Archive, bucket: str, s3: Any) -> None:
    """An object above 8 MiB is read back unchanged, and no upload stays open."""
    await archive.deliver([record(artifacts={"bundle.js": LARGE})])

    assert await archive.read("components/button-1/bundle.js") == LARGE
    assert (await s3.head_object(Bucket=bucket, Key="components/button-1/bundle.js"))["ETag"].endswith('-3"')
    assert "Uploads" not in await s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("turns", [3, 10, 30, 100, 300])
async def test_a_cancelled_upload_leaves_no_parts(archive: S3Archive, bucket: str, s3: Any, turns: int) -> None:
    """The upload is aborted at any point of the cancellation, and no partial object is stored."""
    delivering = asyncio.create_task(archive.deliver([record(artifacts={"bundle.js": LARGE})]))
    for _ in range(turns):
        await asyncio.sleep(0)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    await archive.__aexit__(None, None, None)

    assert "Uploads" not in await s3.list_multipart_uploads(Bucket=bucket)
    assert "Contents" not in await s3.list_objects_v2(Bucket=bucket)


async def test_an_upload_cancelled_between_its_parts_leaves_none(archive: S3Archive, bucket: str, s3: Any) -> None:
    """An upload that the server has started is aborted by the cancellation."""
    delivering = asyncio.create_task(archive.deliver([record(artifacts={"bundle.js": LARGE * 4})]))
    async with asyncio.timeout(10):
        while "Uploads" not in await s3.list_multipart_uploads(Bucket=bucket):
            await asyncio.sleep(0)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    await archive.__aexit__(None, None, None)

    assert "Uploads" not in await s3.list_multipart_uploads(Bucket=bucket)


WRONG = HttpAnswer(status=200, content_type="application/xml", headers={"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'})


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(CAPTIVE, "ETag"), (WRONG, "ETag"), (SLOW_DOWN, "SlowDown"), (Refuse(), "did not reach")],
    ids=["captive portal", "wrong ETag", "SlowDown", "refused"],
)
async def test_an_unverified_upload_is_an_error(
    proxied: S3Archive, archive: S3Archive, proxy: FaultProxy, fault: Any, reason: str
) -> None:
    """The delivery fails with a reason, and succeeds after the fault."""
    bundle = Bundle.of(ITEM)
    async with proxy.fault(fault):
        with pytest.raises(ServiceUnavailable, match=reason):
            await proxied.deliver([ITEM])
        with pytest.raises(ServiceUnavailable, match=reason):
            await proxied._uploader.put(CODE, b"export {}")
    await proxied.deliver([ITEM])

    assert await archive.read(bundle.manifest_key) == bundle.manifest
