"""The archive on a real S3 API, and before it a proxy that fails as networks, proxies and overloaded stores do."""

import asyncio
import gc
import gzip
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aioboto3
import boto3
import httpx
import pytest
from tests.unit.sinks.builders import eventually, record

from forge_otel._runtime.plugins import load
from forge_otel.errors import BadRequest, NotOpen, ServiceTimeout, ServiceUnavailable
from forge_otel.sinks.archive import ArchiveUsage, Bundle, measure
from forge_otel.sinks.s3.sink import S3Archive
from forge_otel.sinks.s3.upload import PART_BYTES
from forge_otel.testing.contracts.archive_contract import ArchiveContract
from forge_otel.testing.faults.http import HttpAnswer
from forge_otel.testing.faults.proxy import FaultProxy, Refuse, Silent, Trickle

numbers = itertools.count(1)
ITEM = record(artifacts={"component.tsx": "export {}"})
CODE = "components/button-1/component.tsx"
LARGE = bytes(range(256)) * (2 * PART_BYTES // 256) + b"the rest"


@asynccontextmanager
async def client_for(endpoint: str) -> AsyncIterator[Any]:
    """A plain client, to look at what the archive did."""
    async with aioboto3.Session().client("s3", endpoint_url=endpoint) as client:
        yield client


@pytest.fixture
async def s3(s3_endpoint: str) -> AsyncIterator[Any]:
    """A plain client on the shared server."""
    async with client_for(s3_endpoint) as client:
        yield client


@pytest.fixture
async def bucket(s3: Any) -> str:
    """An empty bucket."""
    name = f"forge-{next(numbers)}"
    await s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
async def archive(bucket: str, s3_endpoint: str) -> AsyncIterator[S3Archive]:
    """An open archive on an empty bucket."""
    async with open_archive(bucket, s3_endpoint) as opened:
        yield opened


@pytest.fixture
async def proxy(s3_endpoint: str) -> AsyncIterator[FaultProxy]:
    """Stands between an archive and the server."""
    parts = urlsplit(s3_endpoint)
    async with FaultProxy(parts.hostname or "", parts.port or 0) as opened:
        yield opened


@pytest.fixture
async def proxied(bucket: str, proxy: FaultProxy) -> AsyncIterator[S3Archive]:
    """An open archive behind the proxy, with the usual deadline."""
    async with open_archive(bucket, f"http://127.0.0.1:{proxy.port}") as opened:
        yield opened


@pytest.fixture
async def shaky(bucket: str, proxy: FaultProxy) -> AsyncIterator[S3Archive]:
    """An open archive behind the proxy, with a deadline of half a second."""
    async with open_archive(bucket, f"http://127.0.0.1:{proxy.port}", timeout_s="0.5") as opened:
        yield opened


def open_archive(bucket: str, endpoint: str, **options: str) -> S3Archive:
    """The archive that a URL names."""
    url = f"s3://{bucket}?{urlencode({'endpoint_url': endpoint, **options})}"
    opened: S3Archive = load("sinks", url)(url)
    return opened


class TestS3Archive(ArchiveContract):
    """The contract of all archives."""


async def test_opening_does_not_stall_the_loop(bucket: str, s3_endpoint: str) -> None:
    """The models of S3 are read beside the event loop: between two of its turns its own thread computes little."""
    worst_s, is_open = 0.0, False

    async def probe() -> None:
        # The thread's own processor time, which other processes and threads on a busy machine do not add to.
        nonlocal worst_s
        while not is_open:
            started_s = time.thread_time()
            await asyncio.sleep(0.001)
            worst_s = max(worst_s, time.thread_time() - started_s)

    # A full collection of everything that the tests have loaded would be counted too.
    gc.collect()
    gc.freeze()
    probing = asyncio.create_task(probe())
    async with open_archive(bucket, s3_endpoint) as archive:
        is_open = True
        await probing
        await archive.ping()

    gc.unfreeze()
    started_s = time.thread_time()
    boto3.Session().client("s3", region_name="us-east-1", endpoint_url=s3_endpoint)
    assert worst_s < (time.thread_time() - started_s) / 2


async def test_an_archive_that_is_not_open_says_how_to_open_it(bucket: str, s3_endpoint: str) -> None:
    """Before it is entered, and after it is left, nothing is asked."""
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


async def test_more_than_a_page_is_listed_and_deleted(archive: S3Archive) -> None:
    """S3 tells a thousand keys at a time; all 1 105 are found, and all are gone."""
    artifacts: dict[str, str | bytes] = {f"{number:04}.json": "{}" for number in range(1_104)}
    await archive.deliver([record(artifacts=artifacts)])

    assert len([found async for found in archive.list()]) == 1_105
    assert await archive.delete("button-1") == 1_105
    assert [found async for found in archive.list()] == []


async def test_versions_are_deleted_on_request(archive: S3Archive, bucket: str, s3: Any) -> None:
    """With versioning a deletion hides; with `versions` nothing that costs money stays, markers included."""
    await s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    await archive.deliver([ITEM])
    await archive.delete("button-1")
    hidden = await s3.list_object_versions(Bucket=bucket)

    assert await archive.delete("button-1", versions=True) == 4
    left = await s3.list_object_versions(Bucket=bucket)
    assert (len(hidden["Versions"]), len(hidden["DeleteMarkers"])) == (2, 2)
    assert ("Versions" in left, "DeleteMarkers" in left) == (False, False)


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
async def test_what_could_run_in_a_browser_is_downloaded(
    archive: S3Archive, name: str, content_type: str, disposition: str | None
) -> None:
    """A presigned URL gives the bytes, as a file unless it is a picture without scripts."""
    await archive.deliver([record(artifacts={name: "x"})])
    room = "reports" if name.endswith(".html") else "components"
    url = await archive.presigned_get(f"{room}/button-1/{name}")
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(url)

    assert answer.content == b"x"
    assert answer.headers["content-type"] == content_type
    assert answer.headers.get("content-disposition") == disposition


async def test_presigned_urls_are_sigv4_and_live_for_seven_days_at_most(archive: S3Archive) -> None:
    """The default is an hour; what the server would refuse is not signed."""
    query = parse_qs(urlsplit(await archive.presigned_get(CODE)).query)
    assert (query["X-Amz-Algorithm"], query["X-Amz-Expires"]) == (["AWS4-HMAC-SHA256"], ["3600"])
    await archive.presigned_get(CODE, expires_s=7 * 24 * 3600)
    for expires_s in (0, 7 * 24 * 3600 + 1):
        with pytest.raises(BadRequest, match="presigned"):
            await archive.presigned_get(CODE, expires_s=expires_s)
        with pytest.raises(BadRequest, match="presigned"):
            await archive.presigned_put(CODE, expires_s=expires_s)


async def test_a_presigned_put_stores_what_was_allowed(archive: S3Archive) -> None:
    """The signature covers the headers that make browsers download it; a manifest cannot be forged."""
    allowed = await archive.presigned_put(CODE)
    async with httpx.AsyncClient() as client:
        (await client.put(allowed.url, content=b"export {}", headers=allowed.headers)).raise_for_status()

    assert await archive.read(CODE) == b"export {}"
    assert "content-disposition" in parse_qs(urlsplit(allowed.url).query)["X-Amz-SignedHeaders"][0]
    with pytest.raises(BadRequest, match="manifest"):
        await archive.presigned_put("components/button-1/manifest.json")


@pytest.fixture
def is_emulator(s3_endpoint: str, request: pytest.FixtureRequest) -> bool:
    """Whether the S3 is moto, which knows lifecycle rules and encryption; the gateway has neither."""
    return bool(request.node.callspec.params["s3_endpoint"] == "moto")


@pytest.mark.parametrize(("sse", "stored"), [("auto", "AES256"), ("AES256", "AES256"), ("none", None)])
async def test_encryption(
    bucket: str, s3_endpoint: str, s3: Any, is_emulator: bool, sse: str, stored: str | None
) -> None:
    """AES256 is asked for unless it was switched off; where it is insisted on, a store without it stores nothing."""
    async with open_archive(bucket, s3_endpoint, sse=sse) as archive:
        if sse == "AES256" and not is_emulator:
            with pytest.raises(ServiceUnavailable, match="does not encrypt"):
                await archive.deliver([ITEM])
            return
        await archive.deliver([ITEM])

    found = (await s3.head_object(Bucket=bucket, Key=CODE)).get("ServerSideEncryption")
    assert found == (stored if is_emulator else None)


async def test_texts_are_compressed_where_that_is_asked_for(bucket: str, s3_endpoint: str, s3: Any) -> None:
    """Browsers undo it, we undo it, pictures and what is short stay as they are; the manifest is of the plain bytes."""
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
async def test_what_only_says_that_it_is_gzip_is_no_content(
    archive: S3Archive, bucket: str, s3: Any, body: bytes
) -> None:
    """Nothing is made up."""
    await s3.put_object(Bucket=bucket, Key=CODE, Body=body, ContentEncoding="gzip")
    with pytest.raises(ServiceUnavailable, match="gzip"):
        await archive.read(CODE)


async def test_older_versions_are_listed_and_measured(archive: S3Archive, bucket: str, s3: Any) -> None:
    """What is overwritten goes on to cost money where the bucket keeps it."""
    await archive.prepare_bucket()
    for content in ("one", "other"):
        await archive.deliver([record(artifacts={"component.tsx": content})])
    current, versions = await measure(archive.list()), await measure(archive.list_versions())

    assert (current.objects, versions.objects) == (2, 4)
    assert versions.size_bytes > current.size_bytes > len("other")
    assert ArchiveUsage(objects=1, size_bytes=2**40).monthly_usd() == Decimal("23.552")


async def test_what_a_store_can_do_is_learnt_by_asking(archive: S3Archive, is_emulator: bool) -> None:
    """Before and after the bucket is prepared; what the store does not have is told from what is switched off."""
    before = await archive.capabilities()
    await archive.prepare_bucket()
    after = await archive.capabilities()

    assert (before.versioning, after.versioning) == ("off", "on")
    assert (before.lifecycle, after.lifecycle) == (("off", "on") if is_emulator else ("unsupported", "unsupported"))
    assert before.encryption in {"on", "off"} if is_emulator else before.encryption == "unsupported"


async def test_what_is_missing_is_said_once(
    archive: S3Archive, is_emulator: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A bucket that keeps everything for ever is named in the log when the first artifact reaches it."""
    await archive.deliver([ITEM])
    await archive.deliver([record(artifacts={"component.tsx": "other"})])

    (said,) = [entry.getMessage() for entry in caplog.records if "artifacts are never deleted" in entry.getMessage()]
    assert "lifecycle is off" in said if is_emulator else "lifecycle is unsupported" in said
    assert "forge-otel archive prepare" in said


async def test_a_large_object_goes_in_parts(archive: S3Archive, bucket: str, s3: Any) -> None:
    """What is longer than 8 MiB comes back as it was, and no upload stays open."""
    await archive.deliver([record(artifacts={"bundle.js": LARGE})])

    assert await archive.read("components/button-1/bundle.js") == LARGE
    assert (await s3.head_object(Bucket=bucket, Key="components/button-1/bundle.js"))["ETag"].endswith('-3"')
    assert "Uploads" not in await s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("turns", [3, 10, 30, 100, 300])
async def test_a_cancelled_upload_leaves_no_parts(archive: S3Archive, bucket: str, s3: Any, turns: int) -> None:
    """Wherever the cancellation strikes, the upload is aborted, and the object is not there in part."""
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
    """The server knows the upload when the cancellation comes, and knows it no more afterwards."""
    delivering = asyncio.create_task(archive.deliver([record(artifacts={"bundle.js": LARGE * 4})]))
    async with asyncio.timeout(10):
        while "Uploads" not in await s3.list_multipart_uploads(Bucket=bucket):
            await asyncio.sleep(0)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    await archive.__aexit__(None, None, None)

    assert "Uploads" not in await s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("s3_endpoint", ["moto"], indirect=True)
async def test_the_bucket_is_prepared_and_its_owners_rules_stay(archive: S3Archive, bucket: str, s3: Any) -> None:
    """Versioning is on, ours is added to what was there, and a second time changes nothing."""
    owners = {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}}
    await s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [owners]})
    first = await archive.prepare_bucket()
    rules = {rule["ID"]: rule for rule in (await s3.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]}
    second = await archive.prepare_bucket()

    assert (first.changed, first.unsupported, second.changed) == (("versioning", "lifecycle"), (), ())
    assert rules["logs"] == owners
    ours = rules["forge-otel-expire:components/"]
    assert ours["Filter"] == {"Prefix": "components/"}
    assert ours["Expiration"]["Days"] == ours["NoncurrentVersionExpiration"]["NoncurrentDays"] == 90
    assert ours["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert rules["forge-otel-markers:reports/"]["Expiration"]["ExpiredObjectDeleteMarker"] is True
    assert (await s3.get_bucket_versioning(Bucket=bucket))["Status"] == "Enabled"


@pytest.mark.strict_s3
@pytest.mark.parametrize("s3_endpoint", ["versitygw"], indirect=True)
async def test_what_a_store_cannot_do_is_left_out(archive: S3Archive, bucket: str, s3: Any) -> None:
    """Versions without rules are better than neither."""
    first, second = await archive.prepare_bucket(), await archive.prepare_bucket()

    assert (first.changed, first.unsupported) == (("versioning",), ("lifecycle",))
    assert second.changed == ()
    assert (await s3.get_bucket_versioning(Bucket=bucket))["Status"] == "Enabled"


@pytest.mark.parametrize("s3_endpoint", ["moto"], indirect=True)
async def test_another_life_replaces_only_our_rules(archive: S3Archive, bucket: str, s3: Any) -> None:
    """The rules are found again by their ids."""
    await archive.prepare_bucket()
    assert (await archive.prepare_bucket(expire_days=30)).changed == ("lifecycle",)
    rules = (await s3.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]

    assert len(rules) == 4
    assert {rule["Expiration"]["Days"] for rule in rules if "expire" in rule["ID"]} == {30}


CAPTIVE = HttpAnswer(status=200, body=b"<html><body>Log in</body></html>", content_type="text/html")
WRONG = HttpAnswer(status=200, content_type="application/xml", headers={"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'})
SLOW_DOWN = HttpAnswer(
    status=503,
    body=b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>",
    content_type="application/xml",
)


@pytest.mark.parametrize(
    ("fault", "said"),
    [(CAPTIVE, "ETag"), (WRONG, "ETag"), (SLOW_DOWN, "SlowDown"), (Refuse(), "did not reach")],
    ids=["captive portal", "wrong ETag", "SlowDown", "refused"],
)
async def test_what_is_not_proved_is_not_stored(
    proxied: S3Archive, archive: S3Archive, proxy: FaultProxy, fault: Any, said: str
) -> None:
    """The delivery fails and says why, and passes when the fault is over."""
    bundle = Bundle.of(ITEM)
    async with proxy.fault(fault):
        with pytest.raises(ServiceUnavailable, match=said):
            await proxied.deliver([ITEM])
        with pytest.raises(ServiceUnavailable, match=said):
            await proxied._uploader.put(CODE, b"export {}")
    await proxied.deliver([ITEM])

    assert await archive.read(bundle.manifest_key) == bundle.manifest


@pytest.mark.parametrize("fault", [Silent(), Trickle(chunk_bytes=1, interval_s=0.05)], ids=["silent", "trickle"])
async def test_every_operation_ends_within_its_deadline(
    shaky: S3Archive, archive: S3Archive, proxy: FaultProxy, fault: Any
) -> None:
    """Nothing comes, or one byte at a time: upload, read, list, deletion and ping give up, and no connection stays."""
    await archive.deliver([ITEM])
    async with proxy.fault(fault):
        for work in (
            lambda: shaky._uploader.put(CODE, b"x" * 100_000),
            lambda: shaky.deliver([ITEM]),
            lambda: shaky.read(CODE),
            lambda: anext(aiter(shaky.list())),
            lambda: shaky.delete("button-1"),
        ):
            started_s = time.perf_counter()
            with pytest.raises(ServiceTimeout):
                await work()
            assert time.perf_counter() - started_s < 1.5
        await eventually(lambda: not proxy.open_connections)


async def test_a_ping_ends_after_two_seconds(bucket: str, proxy: FaultProxy) -> None:
    """However patient the archive is with uploads."""
    async with open_archive(bucket, f"http://127.0.0.1:{proxy.port}", timeout_s="60") as archive:
        proxy.set(Silent())
        started_s = time.perf_counter()
        with pytest.raises(ServiceTimeout):
            await archive.ping()
        assert time.perf_counter() - started_s < 3


async def test_a_login_page_is_no_list_and_no_deletion(proxied: S3Archive, proxy: FaultProxy) -> None:
    """Well-formed HTML must not be read as an empty bucket or as a success."""
    async with proxy.fault(CAPTIVE):
        with pytest.raises(ServiceUnavailable, match="not from this bucket"):
            await proxied.ping()
        with pytest.raises(ServiceUnavailable, match="not from this bucket"):
            await proxied.delete("button-1")
        with pytest.raises(ServiceUnavailable, match="deletion"):
            await proxied._remove({"Key": CODE})


async def test_a_failure_is_asked_once(proxied: S3Archive, proxy: FaultProxy) -> None:
    """The SDK does not retry: the outbox does, and knows better when."""
    async with proxy.fault(SLOW_DOWN):
        before = proxy.traffic.requests
        with pytest.raises(ServiceUnavailable):
            await proxied.read(CODE)
        assert proxy.traffic.requests - before == 1


async def test_no_permission_is_asked_before_a_body() -> None:
    """The server sees no `Expect` header: one that never grants it would be waited for without end."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head.lower())
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "%s"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' % md5_of(body))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_archive("any-bucket", f"http://127.0.0.1:{port}", timeout_s="2") as archive:
            await archive._uploader.put(CODE, b"export {}")

    (head,) = heads
    assert head.startswith(b"put /any-bucket/components/")
    assert b"expect:" not in head
    assert b"content-md5:" in head


def md5_of(body: bytes) -> bytes:
    """The ETag of a body."""
    return hashlib.md5(body).hexdigest().encode()
