"""Requests to one S3 bucket: each with its own deadline, and every failure translated to one of our errors.

Deliberate divergences from aioboto3's defaults, each against an observed fault:

- The handler that adds `Expect: 100-continue` is removed: aiohttp waits for the interim response without a timeout, so
  an upload to an unresponsive server never ended.
- One attempt per request: the outbox retries, and two layers of retries multiply.
- SigV4 for presigned URLs too, where the default in us-east-1 and on custom endpoints is SigV2.
- Checksums only where S3 requires them (`when_required`), because R2 and GCS reject the trailer that the SDK adds;
  contents are sent with `Content-MD5`, which every store supports.
- The JSON models of S3 are loaded in a thread; on the event loop they would block it for 200 ms.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

from forge_otel._internal.tasks import abandon_after
from forge_otel.errors import ForgeError, NotFound, NotOpen, Rejected, ServiceTimeout, ServiceUnavailable, needs
from forge_otel.sinks.s3.options import S3Options

with needs("s3"):
    import aioboto3  # type: ignore[import-untyped]
    from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
    from aiohttp import ClientError as TransportError
    from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError  # type: ignore[import-untyped]
    from botocore.handlers import add_expect_header  # type: ignore[import-untyped]
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

__all__ = ["Answer", "Bucket", "Refused"]

_CONNECT_TIMEOUT_S: Final = 2.0
# A slower connection is treated as stalled.
_SLOWEST_BYTES_PER_S: Final = 256 * 2**10
# Each request takes the event loop 2 ms of CPU time; six at once delay other requests by about 10 ms.
_CONCURRENCY: Final = 6
# Above the concurrency of uploads, so that reads and pings do not queue behind them.
_POOL: Final = _CONCURRENCY + 8
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})

Answer = dict[str, Any]
T = TypeVar("T")


class Refused(ServiceUnavailable):
    """Error answer of S3.

    Args:
        operation: such as `put_object`.
        code: S3's error code, such as `SlowDown`.
        status: of the HTTP response.
        reason: S3's message.
    """

    code = "archive_refused"
    title = "The object store refused"
    remedy = "Look up the S3 error code in the message; it says whether keys, the bucket or its policy are at fault."

    def __init__(self, operation: str, *, code: str, status: int, reason: str) -> None:
        super().__init__(f"S3 refused {operation} with {status} {code}: {reason[:200]}")
        self.operation = operation
        self.s3_code = code
        self.s3_status = status


class Bucket:
    """One bucket and its long-lived client; credentials come from the default AWS chain.

    Args:
        options: location of the bucket, and the deadline of a request.
    """

    def __init__(self, options: S3Options) -> None:
        self.name = options.bucket
        self.slots = asyncio.Semaphore(_CONCURRENCY)
        """Limits the concurrency of requests that are made in batches; the caller acquires it."""
        self._options = options
        self._opened: AsyncExitStack | None = None
        self._client: Any = None

    async def open(self) -> None:
        """Create the client; no request is made yet."""
        session = await asyncio.to_thread(_warm_session, self._new_client)
        # A semaphore is bound to its event loop, and an archive may be opened again on another one.
        self.slots = asyncio.Semaphore(_CONCURRENCY)
        async with AsyncExitStack() as opening:
            self._client = await opening.enter_async_context(self._new_client(session))
            self._client.meta.events.unregister("before-call.s3", add_expect_header)
            self._opened = opening.pop_all()

    async def close(self) -> None:
        """Close the client and its connections."""
        if self._opened is not None:
            opened, self._opened, self._client = self._opened, None, None
            await opened.aclose()

    async def call(
        self, operation: str, *, size_bytes: int = 0, timeout_s: float | None = None, **parameters: Any
    ) -> Answer:
        """Make one request and return the parsed answer.

        Args:
            operation: the client's method, such as `put_object`.
            size_bytes: of the body; extends the deadline.
            timeout_s: in place of the timeout in the options.
            parameters: of the operation, without `Bucket`.

        Raises:
            NotFound: the key does not exist.
            Rejected: the object or its key exceeds a limit of the store.
            Refused: any other error answer.
            ServiceTimeout: no answer within the deadline.
            ServiceUnavailable: no connection, or a response that is not from S3.
        """
        request = getattr(self._opened_client(), operation)
        limit_s = (self._options.timeout_s if timeout_s is None else timeout_s) + size_bytes / _SLOWEST_BYTES_PER_S
        answer: Answer = await _translated(operation, request(Bucket=self.name, **parameters), timeout_s=limit_s)
        return answer

    async def body(self, answer: Answer) -> bytes:
        """Read the body of an answer to `get_object`."""
        limit_s = self._options.timeout_s + int(answer.get("ContentLength", 0)) / _SLOWEST_BYTES_PER_S
        return await _translated("get_object", _read(answer["Body"]), timeout_s=limit_s)

    async def presign(self, operation: str, *, expires_s: int, **parameters: Any) -> str:
        """Return a URL that allows one operation until it expires; no request is made."""
        signing = self._opened_client().generate_presigned_url(
            operation, Params={"Bucket": self.name, **parameters}, ExpiresIn=expires_s
        )
        url: str = await _translated(f"presigning {operation}", signing, timeout_s=self._options.timeout_s)
        return url

    def _opened_client(self) -> Any:
        if self._client is None:
            raise NotOpen("the archive is not open; enter it with `async with archive:`")
        return self._client

    def _new_client(self, session: Any) -> Any:
        options = self._options
        config = AioConfig(
            signature_version="s3v4",
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=options.timeout_s,
            max_pool_connections=_POOL,
            retries={"mode": "standard", "total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if options.endpoint_url else "auto"},
        )
        return session.client("s3", region_name=options.region, endpoint_url=options.endpoint_url, config=config)


def _warm_session(new_client: Callable[[Any], Any]) -> Any:
    """Return a session that has loaded its models and credentials, by creating a client and discarding it."""
    session = aioboto3.Session()

    async def make() -> None:
        async with new_client(session):
            pass

    asyncio.run(make())
    return session


async def _read(body: Any) -> bytes:
    # Leaving the context without reading the whole body, as after a timeout, closes the connection.
    async with body:
        content: bytes = await body.read()
        return content


async def _translated(operation: str, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    try:
        return await abandon_after(work, timeout_s=timeout_s)
    except (TimeoutError, ConnectTimeoutError, ReadTimeoutError) as exc:
        raise ServiceTimeout(f"no response from S3 to {operation} within {timeout_s:.1f} s") from exc
    except ClientError as exc:
        raise _translated_error(operation, exc) from exc
    except (BotoCoreError, ResponseParserError, TransportError, OSError) as exc:
        raise ServiceUnavailable(f"{operation} did not reach S3: {type(exc).__name__}: {exc}"[:500]) from exc


def _translated_error(operation: str, exc: Any) -> ForgeError:
    error = exc.response.get("Error", {})
    code, status = str(error.get("Code", "")), int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return NotFound("no object is archived under this key")
    if code in {"EntityTooLarge", "KeyTooLongError"}:
        return Rejected(f"S3 rejects this object: {code}")
    return Refused(operation, code=code, status=status, reason=str(error.get("Message", "")))
