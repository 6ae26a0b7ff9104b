"""The archive in S3 or a compatible store (MinIO, R2, GCS): `s3://bucket/prefix?region=…&endpoint_url=…`.

A bundle whose contents equal those of the stored manifest is not sent again. One that differs is sent completely, so
that all objects of a bundle have the same age and a lifecycle rule expires them together.

Deliberate divergences from the folder: `delete` also counts an object that is deleted concurrently, because S3 does not
report it; and a single object that was removed by hand is only replaced by a generation with other contents. A
component is written by one process at a time, as in the folder.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Final, Self

from forge_otel.errors import BadRequest, NotFound, ServiceUnavailable
from forge_otel.sinks.archive import AREAS, MANIFEST, ArchivedObject, Bundle, bundle_keys, check_key, folders
from forge_otel.sinks.s3.bucket import BucketChanges, BucketFeatures, prepare, probe
from forge_otel.sinks.s3.client import Answer, Bucket
from forge_otel.sinks.s3.options import S3Options, parse
from forge_otel.sinks.s3.upload import Uploader, check_content, decompressed, headers_for, run_all
from forge_otel.types import Record

__all__ = ["PresignedPut", "S3Archive", "open_url"]

_logger = getLogger(__name__)
_PING_TIMEOUT_S: Final = 2.0
_LONGEST_PRESIGN_S: Final = 7 * 24 * 3600
_NO_CONTENT: Final = 204


def open_url(url: str) -> "S3Archive":
    """Return the archive at `s3://bucket/prefix?region=…&endpoint_url=…&sse=auto|AES256|none&compress=none|gzip&timeout_s=10`.

    Raises:
        ConfigurationError: lists every fault of the URL.
    """
    return S3Archive(parse(url))


@dataclass(frozen=True, slots=True, kw_only=True)
class PresignedPut:
    """Permission to upload one object.

    Args:
        url: a secret until it expires.
        headers: to send with the content, exactly; the signature covers them.
    """

    url: str
    headers: dict[str, str]


class S3Archive:
    """Archive in a bucket.

    Args:
        options: location of the archive, and how objects are stored.
    """

    name = "archive"

    def __init__(self, options: S3Options) -> None:
        self._prefix = options.prefix
        self._bucket = Bucket(options)
        self._uploader = Uploader(self._bucket, encryption=options.encryption, compress=options.compress)
        self._has_reported = False

    async def __aenter__(self) -> Self:
        await self._bucket.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._uploader.close()
        await self._bucket.close()

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the artifacts of the newest record of each component.

        Raises:
            Rejected: a name is invalid, or an object exceeds a limit of the store.
            ServiceUnavailable: S3 is unavailable.
        """
        bundles = await asyncio.to_thread(_newest, records)
        # The first is sent alone, so that a single request detects that S3 is unavailable, not six at once.
        for part in (bundles[:1], bundles[1:]):
            await run_all(self._store(bundle) for bundle in part)
        await self._report_once()

    async def read(self, key: str) -> bytes:
        """Return the content stored under `key`.

        Raises:
            NotFound: the key is invalid or unused.
            ServiceUnavailable: S3 is unavailable, or returned other bytes than were stored.
        """
        check_key(key)
        try:
            answer = await self._bucket.call("get_object", Key=self._prefix + key)
        except NotFound as exc:
            raise NotFound(f"nothing is archived under {key!r}") from exc
        content = await self._bucket.body(answer)
        await check_content(answer, content)
        return await decompressed(answer, content)

    async def list(self, prefix: str = "") -> AsyncIterator[ArchivedObject]:
        """Iterate over the objects whose keys begin with `prefix`, sorted by key."""
        for area in AREAS:
            stem = f"{area}/"
            if not (stem.startswith(prefix) or prefix.startswith(stem)):
                continue
            async for found in self._walk(max(stem, prefix, key=len)):
                yield found

    async def list_versions(self, prefix: str = "") -> AsyncIterator[ArchivedObject]:
        """Iterate over all versions of the objects whose keys begin with `prefix`."""
        async for page in self._version_pages(prefix):
            for found in page.get("Versions", []):
                key = found["Key"].removeprefix(self._prefix)
                if _is_ours(key):
                    yield ArchivedObject(key, found["Size"], found["LastModified"])

    async def capabilities(self) -> BucketFeatures:
        """Return the state of versioning, lifecycle rules and encryption; the bucket is not changed.

        Raises:
            ServiceUnavailable: S3 does not respond.
        """
        return await probe(self._bucket)

    async def delete(self, component_id: str, *, versions: bool = False) -> int:
        """Delete all objects of a component; return the number of deletions.

        Args:
            component_id: of the component.
            versions: delete older versions and delete markers too; each one counts. Otherwise a bucket with versioning
                hides the objects and keeps them until its lifecycle rules expire them.

        Raises:
            Rejected: the component id is invalid.
        """
        walk = self._walk_versions if versions else self._walk_keys
        by_key: dict[str, list[dict[str, str]]] = {}
        for folder in folders(component_id):
            async for target in walk(folder):
                by_key.setdefault(target["Key"], []).append(target)
        count = sum(map(len, by_key.values()))
        manifests = [key for key in by_key if key.endswith(f"/{MANIFEST}")]
        # The manifest first, so that readers do not take the remaining objects for a complete bundle.
        await run_all(self._remove_all(by_key.pop(key)) for key in manifests)
        await run_all(self._remove_all(targets) for targets in by_key.values())
        return count

    async def ping(self) -> None:
        """Check that the bucket can be listed.

        Raises:
            ServiceUnavailable: S3 does not respond within two seconds, or returns an error.
        """
        # Nothing is written, because each write would leave a version behind.
        await self._page("list_objects_v2", timeout_s=_PING_TIMEOUT_S, Prefix=self._prefix, MaxKeys=1)

    async def prepare_bucket(self, *, expire_days: int = 90) -> BucketChanges:
        """Enable versioning and merge our lifecycle rules with those of the bucket's owner.

        Args:
            expire_days: days until an artifact expires.

        Raises:
            Refused: the credentials may not configure the bucket.
        """
        prefixes = [f"{self._prefix}{area}/" for area in AREAS]
        return await prepare(self._bucket, prefixes=prefixes, expire_days=expire_days)

    async def presigned_get(self, key: str, *, expires_s: int = 3600) -> str:
        """Return a URL that serves the object to any client; treat it as a secret.

        Raises:
            NotFound: the key is invalid.
            BadRequest: `expires_s` is not between one second and seven days.
        """
        check_key(key)
        headers = {f"Response{name}": value for name, value in headers_for(key).items()}
        return await self._presign("get_object", key, expires_s, headers)

    async def presigned_put(self, key: str, *, expires_s: int = 3600) -> PresignedPut:
        """Return a URL by which any client can store an object under `key`; treat it as a secret.

        Raises:
            NotFound: the key is invalid.
            BadRequest: `expires_s` is not between one second and seven days, or the key is that of a manifest.
        """
        _, _, name = check_key(key)
        if name == MANIFEST:
            raise BadRequest("a manifest is written by the archive only")
        headers = headers_for(key)
        url = await self._presign("put_object", key, expires_s, headers)
        spelt = {"ContentType": "Content-Type", "ContentDisposition": "Content-Disposition"}
        return PresignedPut(url=url, headers={spelt[name]: value for name, value in headers.items()})

    async def _presign(self, operation: str, key: str, expires_s: int, headers: dict[str, str]) -> str:
        # botocore signs longer ones too, which the server then rejects.
        if not 1 <= expires_s <= _LONGEST_PRESIGN_S:
            raise BadRequest(f"a presigned URL is valid for 1 to {_LONGEST_PRESIGN_S} seconds, not {expires_s}")
        return await self._bucket.presign(operation, expires_s=expires_s, Key=self._prefix + key, **headers)

    async def _store(self, bundle: Bundle) -> None:
        stored = await self._stored_manifest(bundle)
        if bundle.is_outdated_by(stored) or bundle.has_contents_of(stored):
            return
        await run_all(self._uploader.put(self._prefix + key, content) for key, content in bundle.objects.items())
        await self._uploader.put(self._prefix + bundle.manifest_key, bundle.manifest)
        gone = bundle_keys(bundle.component_id, stored) - set(bundle.objects)
        await run_all(self._remove({"Key": self._prefix + key}) for key in gone)

    async def _stored_manifest(self, bundle: Bundle) -> bytes:
        async with self._bucket.slots:
            try:
                return await self.read(bundle.manifest_key)
            except NotFound:
                return b""

    async def _remove_all(self, targets: Sequence[dict[str, str]]) -> None:
        # One after the other: a gateway that promotes the next older version may miss one of several deletions.
        for target in targets:
            await self._remove(target)

    async def _remove(self, target: dict[str, Any]) -> None:
        # Single deletions: GCS has no multi-delete, and older MinIO rejects the checksum that the SDK adds to it.
        async with self._bucket.slots:
            answer = await self._bucket.call("delete_object", **target)
        if answer["ResponseMetadata"]["HTTPStatusCode"] != _NO_CONTENT:
            raise ServiceUnavailable("the response to a deletion is not from S3; the object may still be stored")

    async def _walk(self, prefix: str) -> AsyncIterator[ArchivedObject]:
        position: dict[str, str] = {}
        while True:
            page = await self._page("list_objects_v2", Prefix=self._prefix + prefix, **position)
            for found in page.get("Contents", []):
                key = found["Key"].removeprefix(self._prefix)
                if _is_ours(key):
                    yield ArchivedObject(key, found["Size"], found["LastModified"])
            if not page.get("IsTruncated"):
                return
            position = _continuation(page, {"ContinuationToken": "NextContinuationToken"})

    async def _walk_keys(self, prefix: str) -> AsyncIterator[dict[str, str]]:
        async for found in self._walk(prefix):
            yield {"Key": self._prefix + found.key}

    async def _walk_versions(self, prefix: str) -> AsyncIterator[dict[str, str]]:
        async for page in self._version_pages(prefix):
            for found in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                yield {"Key": found["Key"], "VersionId": found["VersionId"]}

    async def _version_pages(self, prefix: str) -> AsyncIterator[Answer]:
        position: dict[str, str] = {}
        while True:
            page = await self._page("list_object_versions", Prefix=self._prefix + prefix, **position)
            yield page
            if not page.get("IsTruncated"):
                return
            position = _continuation(page, {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"})

    async def _report_once(self) -> None:
        if self._has_reported:
            return
        self._has_reported = True
        try:
            advice = (await self.capabilities()).advice()
        except ServiceUnavailable:
            return
        if advice:
            _logger.warning("bucket %s: %s", self._bucket.name, advice)

    async def _page(self, operation: str, **parameters: Any) -> Answer:
        page = await self._bucket.call(operation, **parameters)
        # An HTML page can be well-formed XML, which the SDK parses as an empty list.
        if page.get("Name") != self._bucket.name:
            raise ServiceUnavailable("the list is not from this bucket; check for a proxy or login page in between")
        return page


def _newest(records: Iterable[Record]) -> list[Bundle]:
    """Return the newest bundle of each component."""
    bundles: dict[str, Bundle] = {}
    for record in records:
        if not record.artifacts:
            continue
        bundle = Bundle.of(record)
        kept = bundles.get(bundle.component_id)
        if kept is None or not bundle.is_outdated_by(kept.manifest):
            bundles[bundle.component_id] = bundle
    return list(bundles.values())


def _is_ours(key: str) -> bool:
    try:
        check_key(key)
    except NotFound:
        return False
    return True


def _continuation(page: Answer, names: dict[str, str]) -> dict[str, str]:
    """Return the parameters that continue the listing."""
    position = {name: page[marker] for name, marker in names.items() if page.get(marker)}
    if not position:
        raise ServiceUnavailable("S3 reported another page without a marker to continue from")
    return position
