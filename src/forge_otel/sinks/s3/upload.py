"""Uploads to S3 that count as stored only when the store has proved it, and leave nothing half done behind.

The proof is the ETag: the MD5 of what was sent, or, where the store encrypts with a key of its own and the ETag says
nothing, a second look at the object's size. The `200 OK` of a captive portal has none and is a failure.

Contents are stored as they are unless gzip is asked for: whoever follows a presigned URL gets the bytes whose SHA-256
is in the manifest, also with a client that does not undo `Content-Encoding`. Browsers and `S3Archive.read` do.
"""

import asyncio
import base64
import gzip
import hashlib
import re
import zlib
from collections.abc import Coroutine, Iterable, Mapping
from logging import getLogger
from typing import Any, Final, Literal

from forge_otel.errors import ForgeError, ServiceUnavailable
from forge_otel.sinks.s3.client import Answer, Bucket, Refused

__all__ = ["PART_BYTES", "Encryption", "Uploader", "check_content", "headers_for", "together", "unpacked"]

_logger = getLogger(__name__)

PART_BYTES: Final = 8 * 2**20
"""Objects larger than this are sent in parts of this size."""

# Of one object at a time: each is a copy in memory.
_PARTS_AT_ONCE: Final = 4
# Hashing more than this takes the event loop's time.
_HASHED_INLINE_BYTES: Final = 64 * 2**10
_ABORT_TRIES: Final = 3
_ABORT_PATIENCE_S: Final = 5.0
_MD5_ETAG: Final = re.compile(r"[0-9a-f]{32}(-\d+)?")
_SSE_UNKNOWN: Final = frozenset(
    {"InvalidArgument", "InvalidEncryptionAlgorithmError", "InvalidRequest", "NotImplemented"}
)
_SHOWN_INLINE: Final = {".gif": "image/gif", ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png"}
_CONTENT_TYPES: Final = {
    **_SHOWN_INLINE,
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    **dict.fromkeys((".css", ".js", ".jsx", ".md", ".ts", ".tsx", ".txt"), "text/plain; charset=utf-8"),
}

# Pictures are compressed already.
_COMPRESSIBLE: Final = ("text/", "application/json", "image/svg")
_COMPRESS_ABOVE: Final = 1024
_MAX_INFLATED_BYTES: Final = 256 * 2**20

Encryption = Literal["auto", "AES256", "none"]


class Uploader:
    """Stores contents in a bucket.

    Args:
        bucket: where to.
        encryption: `AES256` asks for it and insists; `auto` asks, and stops asking when the store does not know it.
        compress: store texts with gzip where that makes them smaller.
    """

    def __init__(self, bucket: Bucket, *, encryption: Encryption, compress: bool = False) -> None:
        self._compresses = compress
        self._bucket = bucket
        self._insists = encryption == "AES256"
        self._asks = encryption != "none"
        # Until the store has shown that it knows the header, an error may be about it.
        self._is_proven = self._insists
        self._aborts: set[asyncio.Task[None]] = set()

    async def put(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, whole or not at all.

        Raises:
            ServiceUnavailable: it is not proved that the content is there.
        """
        headers = headers_for(key)
        if self._compresses and headers["ContentType"].startswith(_COMPRESSIBLE) and len(content) >= _COMPRESS_ABOVE:
            packed = await asyncio.to_thread(gzip.compress, content, mtime=0)
            if len(packed) < len(content):
                content, headers = packed, headers | {"ContentEncoding": "gzip"}
        put = self._put_whole if len(content) <= PART_BYTES else self._put_parts
        await put(key, content, headers)

    async def close(self) -> None:
        """Wait a moment for what was cancelled to be cleaned up."""
        if self._aborts:
            await asyncio.wait(self._aborts, timeout=_ABORT_PATIENCE_S)

    async def _put_whole(self, key: str, content: bytes, headers: Mapping[str, str]) -> None:
        md5 = await _md5(content)
        async with self._bucket.turn:
            answer = await self._ask_encrypted(
                "put_object",
                Key=key,
                Body=content,
                ContentMD5=_base64(md5),
                size_bytes=len(content),
                **headers,
            )
            await self._confirm(key, answer, expected=md5.hex(), size_bytes=len(content))

    async def _put_parts(self, key: str, content: bytes, headers: Mapping[str, str]) -> None:
        # In a task of its own that a cancellation does not reach: an upload whose id never came cannot be aborted.
        creating = asyncio.create_task(self._ask_encrypted("create_multipart_upload", Key=key, **headers))
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
            self._abort_soon(key, creating)
            raise

    async def _send_parts(self, upload: Mapping[str, Any], content: bytes) -> list[tuple[str, bytes]]:
        """Send all parts; return the ETag and MD5 of each in order."""
        digests: dict[int, tuple[str, bytes]] = {}
        at_once = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def send(start: int) -> None:
            async with at_once, self._bucket.turn:
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
                _is_proof(answer, expected=md5.hex())
                digests[start] = (answer["ETag"], md5)

        await together(send(start) for start in range(0, len(content), PART_BYTES))
        return [digests[start] for start in sorted(digests)]

    async def _ask_encrypted(self, operation: str, **of: Any) -> Answer:
        if not self._asks:
            return await self._bucket.call(operation, **of)
        try:
            answer = await self._bucket.call(operation, ServerSideEncryption="AES256", **of)
        except Refused as exc:
            if self._is_proven or exc.s3_code not in _SSE_UNKNOWN:
                raise
            answer = await self._bucket.call(operation, **of)
            self._asks = False
            _logger.info("the bucket %s does not know SSE AES256: %s", self._bucket.place.bucket, exc)
            return answer
        if self._insists and "ServerSideEncryption" not in answer:
            raise ServiceUnavailable("the object store does not encrypt (sse=AES256 was asked for)")
        self._is_proven = True
        return answer

    async def _confirm(self, key: str, answer: Answer, *, expected: str, size_bytes: int) -> None:
        if _is_proof(answer, expected=expected):
            return
        seen = await self._bucket.call("head_object", Key=key)
        if seen.get("ETag") != answer["ETag"] or seen.get("ContentLength") != size_bytes:
            raise ServiceUnavailable(f"S3 said that it stored {key!r}, and has something else there")

    def _abort_soon(self, key: str, creating: asyncio.Task[Answer]) -> None:
        task = asyncio.create_task(self._abort(key, creating), name="forge-s3-abort")
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _abort(self, key: str, creating: asyncio.Task[Answer]) -> None:
        try:
            upload_id = (await creating)["UploadId"]
        except ForgeError:
            return
        try:
            # S3 may take a part that was under way after the first abort; "no such upload" is the only proof.
            for _ in range(_ABORT_TRIES):
                await self._bucket.call("abort_multipart_upload", Key=key, UploadId=upload_id)
        except ForgeError as exc:
            if not (isinstance(exc, Refused) and exc.s3_code == "NoSuchUpload"):
                _logger.warning("parts of %s stay until the lifecycle rule removes them: %s", key, exc)


async def check_content(answer: Answer, content: bytes) -> None:
    """Raise `ServiceUnavailable` unless `content` is what the store says that it is."""
    # The ETag of an object that came in parts depends on their size, which is the uploader's business.
    if _is_proof(answer, expected=None) and "-" not in answer["ETag"]:
        _is_proof(answer, expected=(await _md5(content)).hex())


async def unpacked(answer: Answer, content: bytes) -> bytes:
    """Undo the `Content-Encoding` that the object was stored with.

    Raises:
        ServiceUnavailable: what is there is no gzip, or inflates to more than any artifact has.
    """
    if answer.get("ContentEncoding", "") != "gzip":
        return content
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = await asyncio.to_thread(inflater.decompress, content, _MAX_INFLATED_BYTES)
    except zlib.error as exc:
        raise ServiceUnavailable("an object is stored as gzip and is none") from exc
    if not inflater.eof:
        raise ServiceUnavailable("an object stored as gzip is cut short or too large")
    return plain


def headers_for(key: str) -> dict[str, str]:
    """Return how browsers are to take an object: nothing that could run is shown on the bucket's own origin."""
    name = key.rpartition("/")[2]
    suffix = f".{name.rpartition('.')[2]}".lower()
    headers = {"ContentType": _CONTENT_TYPES.get(suffix, "application/octet-stream")}
    if suffix not in _SHOWN_INLINE:
        headers["ContentDisposition"] = f'attachment; filename="{name}"'
    return headers


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await all; the first failure cancels the others and is raised as it is, so that callers can tell its type."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _is_proof(answer: Answer, *, expected: str | None) -> bool:
    """Say whether the ETag is an MD5, and so proves what is stored; raise if there is none, or not the one `expected`.

    With KMS and on some stores the ETag is opaque.
    """
    etag = str(answer.get("ETag") or "").strip('"').lower()
    if not etag:
        raise ServiceUnavailable("an answer without ETag is not from S3; is there a proxy or login page in between?")
    is_opaque = "kms" in str(answer.get("ServerSideEncryption", "")) or "SSECustomerAlgorithm" in answer
    if is_opaque or not _MD5_ETAG.fullmatch(etag):
        return False
    if expected is not None and etag != expected:
        raise ServiceUnavailable(f"the ETag from S3 is {etag}, the content's is {expected}: not stored as it was sent")
    return True


async def _md5(content: bytes) -> bytes:
    if len(content) <= _HASHED_INLINE_BYTES:
        return hashlib.md5(content, usedforsecurity=False).digest()
    return await asyncio.to_thread(lambda: hashlib.md5(content, usedforsecurity=False).digest())


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
