"""Verified uploads to S3: an object counts as stored only after the store has proved it, and no partial upload remains.

The proof is the ETag: the MD5 of the sent bytes, or, where the store encrypts with its own key and the ETag is opaque,
the size of the object in a second request. The `200 OK` of a captive portal has no ETag and is a failure.

Contents are stored unchanged unless gzip is enabled, so that the bytes behind a presigned URL match the SHA-256 of the
manifest even for clients that ignore `Content-Encoding`. Browsers and `S3Archive.read` decompress.
"""

import asyncio
import base64
import gzip
import hashlib
import re
import zlib
from collections.abc import Coroutine, Iterable, Mapping
from logging import getLogger
from typing import Any, Final

from forge_otel.errors import ForgeError, ServiceUnavailable
from forge_otel.sinks.s3.client import Answer, Bucket, Refused
from forge_otel.sinks.s3.options import Encryption

__all__ = ["PART_BYTES", "Uploader", "check_content", "decompressed", "headers_for", "run_all"]

_logger = getLogger(__name__)

PART_BYTES: Final = 8 * 2**20
"""Size of the parts in which larger objects are sent."""

# Limit for one object, because each part is a copy in memory.
_MAX_CONCURRENT_PARTS: Final = 4
# Larger contents are hashed in a thread.
_HASHED_INLINE_BYTES: Final = 64 * 2**10
_ABORT_ATTEMPTS: Final = 3
_ABORT_TIMEOUT_S: Final = 5.0
_MD5_ETAG: Final = re.compile(r"[0-9a-f]{32}(-\d+)?")
_SSE_UNSUPPORTED: Final = frozenset(
    {"InvalidArgument", "InvalidEncryptionAlgorithmError", "InvalidRequest", "NotImplemented"}
)
_INLINE_TYPES: Final = {".gif": "image/gif", ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png"}
_CONTENT_TYPES: Final = {
    **_INLINE_TYPES,
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    **dict.fromkeys((".css", ".js", ".jsx", ".md", ".ts", ".tsx", ".txt"), "text/plain; charset=utf-8"),
}

# Other contents, such as images, are compressed already.
_COMPRESSIBLE: Final = ("text/", "application/json", "image/svg")
_COMPRESS_ABOVE: Final = 1024
_MAX_INFLATED_BYTES: Final = 256 * 2**20


class Uploader:
    """Verified uploads to one bucket.

    Args:
        bucket: an open bucket.
        encryption: `AES256` requires encryption; `auto` requests it until the store turns out not to support it.
        compress: store texts with gzip where that makes them smaller.
    """

    def __init__(self, bucket: Bucket, *, encryption: Encryption, compress: bool = False) -> None:
        self._compresses = compress
        self._bucket = bucket
        self._requires_sse = encryption == "AES256"
        self._requests_sse = encryption != "none"
        # Before the first success, an error may mean that the store does not support the header.
        self._is_sse_supported = self._requires_sse
        self._aborts: set[asyncio.Task[None]] = set()

    async def put(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, completely or not at all.

        Raises:
            ServiceUnavailable: the store did not prove that it has the content.
        """
        headers = headers_for(key)
        if self._compresses and headers["ContentType"].startswith(_COMPRESSIBLE) and len(content) >= _COMPRESS_ABOVE:
            packed = await asyncio.to_thread(gzip.compress, content, mtime=0)
            if len(packed) < len(content):
                content, headers = packed, headers | {"ContentEncoding": "gzip"}
        put = self._put_whole if len(content) <= PART_BYTES else self._put_parts
        await put(key, content, headers)

    async def close(self) -> None:
        """Wait up to 5 s until the parts of cancelled uploads are deleted."""
        if self._aborts:
            await asyncio.wait(self._aborts, timeout=_ABORT_TIMEOUT_S)

    async def _put_whole(self, key: str, content: bytes, headers: Mapping[str, str]) -> None:
        md5 = await _md5(content)
        async with self._bucket.slots:
            answer = await self._call_encrypted(
                "put_object",
                Key=key,
                Body=content,
                ContentMD5=_base64(md5),
                size_bytes=len(content),
                **headers,
            )
            await self._confirm(key, answer, expected=md5.hex(), size_bytes=len(content))

    async def _put_parts(self, key: str, content: bytes, headers: Mapping[str, str]) -> None:
        # A task of its own, out of reach of a cancellation: an upload without its id cannot be aborted.
        creating = asyncio.create_task(self._call_encrypted("create_multipart_upload", Key=key, **headers))
        try:
            await asyncio.wait({creating})
            upload: dict[str, Any] = {"Key": key, "UploadId": creating.result()["UploadId"]}
            digests = await self._send_parts(upload, content)
            answer = await self._bucket.call(
                "complete_multipart_upload",
                MultipartUpload={"Parts": [{"PartNumber": n, "ETag": etag} for n, (etag, _) in enumerate(digests, 1)]},
                **upload,
            )
            whole = hashlib.md5(b"".join(md5 for _, md5 in digests), usedforsecurity=False).hexdigest()
            await self._confirm(key, answer, expected=f"{whole}-{len(digests)}", size_bytes=len(content))
        except BaseException:
            self._schedule_abort(key, creating)
            raise

    async def _send_parts(self, upload: Mapping[str, Any], content: bytes) -> list[tuple[str, bytes]]:
        """Send all parts; return the ETag and MD5 of each, in order."""
        digests: dict[int, tuple[str, bytes]] = {}
        slots = asyncio.Semaphore(_MAX_CONCURRENT_PARTS)

        async def send(start: int) -> None:
            async with slots, self._bucket.slots:
                part = content[start : start + PART_BYTES]
                md5 = await _md5(part)
                answer = await self._bucket.call(
                    "upload_part",
                    Body=part,
                    ContentMD5=_base64(md5),
                    PartNumber=start // PART_BYTES + 1,
                    size_bytes=len(part),
                    **upload,
                )
                _is_verified(answer, expected=md5.hex())
                digests[start] = (answer["ETag"], md5)

        await run_all(send(start) for start in range(0, len(content), PART_BYTES))
        return [digests[start] for start in sorted(digests)]

    async def _call_encrypted(self, operation: str, **parameters: Any) -> Answer:
        if not self._requests_sse:
            return await self._bucket.call(operation, **parameters)
        try:
            answer = await self._bucket.call(operation, ServerSideEncryption="AES256", **parameters)
        except Refused as exc:
            if self._is_sse_supported or exc.s3_code not in _SSE_UNSUPPORTED:
                raise
            answer = await self._bucket.call(operation, **parameters)
            self._requests_sse = False
            _logger.info("bucket %s does not support SSE AES256: %s", self._bucket.name, exc)
            return answer
        if self._requires_sse and "ServerSideEncryption" not in answer:
            raise ServiceUnavailable("the object store does not encrypt, and sse=AES256 requires it")
        self._is_sse_supported = True
        return answer

    async def _confirm(self, key: str, answer: Answer, *, expected: str, size_bytes: int) -> None:
        if _is_verified(answer, expected=expected):
            return
        seen = await self._bucket.call("head_object", Key=key)
        if seen.get("ETag") != answer["ETag"] or seen.get("ContentLength") != size_bytes:
            raise ServiceUnavailable(f"S3 acknowledged {key!r}, but stores a different object under it")

    def _schedule_abort(self, key: str, creating: asyncio.Task[Answer]) -> None:
        task = asyncio.create_task(self._abort(key, creating), name="forge-s3-abort")
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _abort(self, key: str, creating: asyncio.Task[Answer]) -> None:
        try:
            upload_id = (await creating)["UploadId"]
        except ForgeError:
            return
        try:
            # S3 may accept a part that was in flight during the first abort; only "no such upload" proves the abort.
            for _ in range(_ABORT_ATTEMPTS):
                await self._bucket.call("abort_multipart_upload", Key=key, UploadId=upload_id)
        except ForgeError as exc:
            if not (isinstance(exc, Refused) and exc.s3_code == "NoSuchUpload"):
                _logger.warning("parts of %s not deleted, left to the lifecycle rule: %s", key, exc)


async def check_content(answer: Answer, content: bytes) -> None:
    """Raise `ServiceUnavailable` unless `content` matches the ETag of the answer."""
    # The ETag of a multipart upload depends on the size of its parts, which is not known here.
    if _is_verified(answer, expected=None) and "-" not in answer["ETag"]:
        _is_verified(answer, expected=(await _md5(content)).hex())


async def decompressed(answer: Answer, content: bytes) -> bytes:
    """Return `content` without the `Content-Encoding` of the object.

    Raises:
        ServiceUnavailable: the content is not valid gzip, or inflates to more than 256 MiB.
    """
    if answer.get("ContentEncoding", "") != "gzip":
        return content
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = await asyncio.to_thread(inflater.decompress, content, _MAX_INFLATED_BYTES)
    except zlib.error as exc:
        raise ServiceUnavailable("an object is marked as gzip but is not valid gzip") from exc
    if not inflater.eof:
        raise ServiceUnavailable("a gzip object is truncated or too large")
    return plain


def headers_for(key: str) -> dict[str, str]:
    """Return the upload headers of an object: its type, and `attachment` for every type that could contain scripts."""
    name = key.rpartition("/")[2]
    suffix = f".{name.rpartition('.')[2]}".lower()
    headers = {"ContentType": _CONTENT_TYPES.get(suffix, "application/octet-stream")}
    # A browser would run scripts in the object on the origin of the bucket.
    if suffix not in _INLINE_TYPES:
        headers["ContentDisposition"] = f'attachment; filename="{name}"'
    return headers


async def run_all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines concurrently; the first failure cancels the rest and is raised as it is, not as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _is_verified(answer: Answer, *, expected: str | None) -> bool:
    """Return whether the ETag is an MD5; raise if it is missing, or an MD5 other than `expected`."""
    etag = str(answer.get("ETag") or "").strip('"').lower()
    if not etag:
        raise ServiceUnavailable("a response without ETag is not from S3; check for a proxy or login page in between")
    # With KMS, with customer keys and on some stores the ETag is opaque.
    is_opaque = "kms" in str(answer.get("ServerSideEncryption", "")) or "SSECustomerAlgorithm" in answer
    if is_opaque or not _MD5_ETAG.fullmatch(etag):
        return False
    if expected is not None and etag != expected:
        raise ServiceUnavailable(
            f"the ETag from S3 is {etag}, that of the content {expected}; it was not stored as sent"
        )
    return True


async def _md5(content: bytes) -> bytes:
    if len(content) <= _HASHED_INLINE_BYTES:
        return hashlib.md5(content, usedforsecurity=False).digest()
    return await asyncio.to_thread(lambda: hashlib.md5(content, usedforsecurity=False).digest())


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
