"""The archive in S3 or what speaks like it (MinIO, R2, GCS): `s3://bucket/prefix?region=…&endpoint_url=…`.

Same layout and methods as in a folder. A bundle whose contents are those of the stored manifest is not sent again; one
that differs is sent whole, so that all objects of a bundle are of one age and a lifecycle rule ends them together.

Deliberate divergences from the folder: `delete` of an object that somebody removes at the same time counts it too,
because S3 does not tell; and a single object that was removed by hand comes back with the next generation of other
contents only. A component is written by one process at a time, as there.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Final, Self

from forge_otel.errors import BadRequest, NotFound, ServiceUnavailable
from forge_otel.sinks.archive import MANIFEST, ROOMS, ArchivedObject, Bundle, bundle_keys, check_key, folders
from forge_otel.sinks.s3.bucket import EXPIRE_RULE, BucketReport, prepare
from forge_otel.sinks.s3.capabilities import Capabilities, probe, report
from forge_otel.sinks.s3.client import Answer, Bucket, Place
from forge_otel.sinks.s3.upload import Encryption, Uploader, check_content, headers_for, together, unpacked
from forge_otel.sinks.s3.url import parse
from forge_otel.types import Record

__all__ = ["PresignedPut", "S3Archive", "open_url"]

_logger = getLogger(__name__)
_PING_TIMEOUT_S: Final = 2.0
_LONGEST_PRESIGN_S: Final = 7 * 24 * 3600
_NO_CONTENT: Final = 204


def open_url(url: str) -> "S3Archive":
    """Return the archive at `s3://bucket/prefix?region=…&endpoint_url=…&sse=auto|AES256|none&compress=none|gzip&timeout_s=10`.

    Raises:
        ConfigurationError: with every fault of the URL at once.
    """
    target = parse(url)
    place = Place(bucket=target.bucket, region=target.region, endpoint_url=target.endpoint_url)
    return S3Archive(
        place,
        prefix=target.prefix,
        encryption=target.encryption,
        compress=target.compress,
        timeout_s=target.timeout_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PresignedPut:
    """Allows whoever holds it to store one object.

    Args:
        url: a secret until it expires.
        headers: to be sent with the content, exactly; the signature covers them.
    """

    url: str
    headers: dict[str, str]


class S3Archive:
    """Stores artifacts in a bucket.

    Args:
        place: the bucket, which has to exist.
        prefix: of every key, empty or ending in a slash.
        encryption: whether to ask for SSE AES256.
        compress: store texts with gzip and `Content-Encoding`.
        timeout_s: deadline of one request.
    """

    name = "archive"

    def __init__(
        self,
        place: Place,
        *,
        prefix: str = "",
        encryption: Encryption = "auto",
        compress: bool = False,
        timeout_s: float = 10.0,
    ) -> None:
        self._prefix = prefix
        self._bucket = Bucket(place, timeout_s=timeout_s)
        self._uploader = Uploader(self._bucket, encryption=encryption, compress=compress)
        self._has_reported = False

    async def __aenter__(self) -> Self:
        await self._bucket.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._uploader.close()
        await self._bucket.close()

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the artifacts of the records, of each component the newest.

        Raises:
            Rejected: a name, or an object's size, can never be stored.
            ServiceUnavailable: S3 does not take them now.
        """
        bundles = await asyncio.to_thread(_newest, records)
        # The first goes alone, so that one request finds out that S3 is away, and not six at once.
        for some in (bundles[:1], bundles[1:]):
            await together(self._store(bundle) for bundle in some)
        await self._report_once()

    async def read(self, key: str) -> bytes:
        """Return the content stored under `key`.

        Raises:
            NotFound: there is none.
            ServiceUnavailable: S3 does not answer, or with something else than was stored.
        """
        check_key(key)
        try:
            answer = await self._bucket.call("get_object", Key=self._prefix + key)
        except NotFound as exc:
            raise NotFound(f"nothing is archived under {key!r}") from exc
        content = await self._bucket.body(answer)
        await check_content(answer, content)
        return await unpacked(answer, content)

    async def list(self, prefix: str = "") -> AsyncIterator[ArchivedObject]:
        """Go through what is stored under keys that begin with `prefix`, in their order."""
        for room in ROOMS:
            stem = f"{room}/"
            if not (stem.startswith(prefix) or prefix.startswith(stem)):
                continue
            async for found in self._walk(max(stem, prefix, key=len)):
                yield found

    async def list_versions(self, prefix: str = "") -> AsyncIterator[ArchivedObject]:
        """Go through all versions of what is stored under keys that begin with `prefix`, older and newest."""
        async for page in self._version_pages(prefix):
            for found in page.get("Versions", []):
                key = found["Key"].removeprefix(self._prefix)
                if _is_ours(key):
                    yield ArchivedObject(key, found["Size"], found["LastModified"])

    async def capabilities(self) -> Capabilities:
        """Ask what the bucket's store can do and what of it is switched on; nothing is changed.

        Raises:
            ServiceUnavailable: it does not answer.
        """
        return await probe(self._bucket, rule_prefix=EXPIRE_RULE)

    async def delete(self, component_id: str, *, versions: bool = False) -> int:
        """Delete all that belongs to a component; return how many objects that were.

        Args:
            component_id: of the component.
            versions: take the older versions and the delete markers too; each counts. Without, a bucket with
                versioning hides the objects, and keeps them until its lifecycle rules end them.

        Raises:
            Rejected: the id cannot be one.
        """
        walk = self._walk_versions if versions else self._walk_keys
        by_key: dict[str, list[dict[str, str]]] = {}
        for folder in folders(component_id):
            async for target in walk(folder):
                by_key.setdefault(target["Key"], []).append(target)
        count = sum(map(len, by_key.values()))
        manifests = [key for key in by_key if key.endswith(f"/{MANIFEST}")]
        # The manifest first, so that no reader takes what is left for a whole bundle.
        await together(self._remove_all(by_key.pop(key)) for key in manifests)
        await together(self._remove_all(targets) for targets in by_key.values())
        return count

    async def ping(self) -> None:
        """Look into the bucket; nothing is written, because every write would leave a version behind.

        Raises:
            ServiceUnavailable: it does not answer within two seconds, or refuses.
        """
        await self._page("list_objects_v2", timeout_s=_PING_TIMEOUT_S, Prefix=self._prefix, MaxKeys=1)

    async def prepare_bucket(self, *, expire_days: int = 90) -> BucketReport:
        """Switch versioning on and merge our lifecycle rules with those that the bucket's owner has.

        Args:
            expire_days: after which an artifact ends.

        Raises:
            Refused: the credentials may not configure the bucket.
        """
        prefixes = [f"{self._prefix}{room}/" for room in ROOMS]
        return await prepare(self._bucket, prefixes=prefixes, expire_days=expire_days)

    async def presigned_get(self, key: str, *, expires_s: int = 3600) -> str:
        """Return a URL that gives the object to whoever has it; treat it as a secret.

        Raises:
            NotFound: nothing can be stored under `key`.
            BadRequest: `expires_s` is not between a second and seven days.
        """
        check_key(key)
        headers = {f"Response{name}": value for name, value in headers_for(key).items()}
        return await self._presign("get_object", key, expires_s, headers)

    async def presigned_put(self, key: str, *, expires_s: int = 3600) -> PresignedPut:
        """Return a URL that stores an object under `key` for whoever has it; treat it as a secret.

        Raises:
            NotFound: nothing can be stored under `key`.
            BadRequest: `expires_s` is not between a second and seven days, or the key is that of a manifest.
        """
        _, _, name = check_key(key)
        if name == MANIFEST:
            raise BadRequest("a manifest is written by the archive alone")
        headers = headers_for(key)
        url = await self._presign("put_object", key, expires_s, headers)
        spelt = {"ContentType": "Content-Type", "ContentDisposition": "Content-Disposition"}
        return PresignedPut(url=url, headers={spelt[name]: value for name, value in headers.items()})

    async def _presign(self, operation: str, key: str, expires_s: int, headers: dict[str, str]) -> str:
        # botocore signs longer ones too, and then the server refuses them.
        if not 1 <= expires_s <= _LONGEST_PRESIGN_S:
            raise BadRequest(f"a presigned URL lives for 1 to {_LONGEST_PRESIGN_S} seconds, not {expires_s}")
        return await self._bucket.presign(operation, expires_s=expires_s, Key=self._prefix + key, **headers)

    async def _store(self, bundle: Bundle) -> None:
        stored = await self._stored_manifest(bundle)
        if bundle.is_outdated_by(stored) or bundle.is_described_by(stored):
            return
        await together(self._uploader.put(self._prefix + key, content) for key, content in bundle.objects.items())
        await self._uploader.put(self._prefix + bundle.manifest_key, bundle.manifest)
        gone = bundle_keys(bundle.component_id, stored) - set(bundle.objects)
        await together(self._remove({"Key": self._prefix + key}) for key in gone)

    async def _stored_manifest(self, bundle: Bundle) -> bytes:
        async with self._bucket.turn:
            try:
                return await self.read(bundle.manifest_key)
            except NotFound:
                return b""

    async def _remove_all(self, targets: Sequence[dict[str, str]]) -> None:
        """Remove the versions of one key in turn: a gateway that puts the next older one in front may miss one."""
        for target in targets:
            await self._remove(target)

    async def _remove(self, target: dict[str, Any]) -> None:
        # One by one: GCS has no multi-delete, and older MinIO refuses the checksum that the SDK sends with it.
        async with self._bucket.turn:
            answer = await self._bucket.call("delete_object", **target)
        if answer["ResponseMetadata"]["HTTPStatusCode"] != _NO_CONTENT:
            raise ServiceUnavailable("the answer to a deletion is not from S3; nothing is known to be deleted")

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
            position = _next(page, {"ContinuationToken": "NextContinuationToken"})

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
            position = _next(page, {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"})

    async def _report_once(self) -> None:
        """Say in the log what this store will not do for the artifacts, once, when they reach it."""
        if self._has_reported:
            return
        self._has_reported = True
        try:
            missing = report(await self.capabilities())
        except ServiceUnavailable:
            return
        if missing:
            _logger.warning("the bucket %s: %s", self._bucket.place.bucket, missing)

    async def _page(self, operation: str, **of: Any) -> Answer:
        page = await self._bucket.call(operation, **of)
        # A page of HTML can be well-formed XML, which the SDK reads as an empty list.
        if page.get("Name") != self._bucket.place.bucket:
            raise ServiceUnavailable("the list is not from this bucket; is there a proxy or login page in between?")
        return page


def _newest(records: Iterable[Record]) -> list[Bundle]:
    """Return of each component the bundle that is to be stored in the end."""
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


def _next(page: Answer, names: dict[str, str]) -> dict[str, str]:
    """Return where the next page begins."""
    position = {name: page[told] for name, told in names.items() if page.get(told)}
    if not position:
        raise ServiceUnavailable("S3 said that the list goes on, and not where")
    return position
