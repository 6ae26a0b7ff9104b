"""Requests to one S3 bucket: each with its own deadline, each answer checked, every failure one of our errors.

Deliberate divergences from aioboto3's defaults, each against a fault that was seen:

- The handler that adds `Expect: 100-continue` is taken off: aiohttp waits for the interim answer with no timer, so an
  upload to a silent server never ended, whatever the timeouts said.
- One try a request: the outbox owns retries, and two layers of them multiply.
- SigV4 for presigned URLs too, where the default in us-east-1 and on custom endpoints is SigV2.
- Checksums only where S3 requires them (`when_required`), because R2 and GCS refuse the trailer that the SDK would
  add; contents go with `Content-MD5`, which every store knows.
- The JSON models of S3 are read in a thread; the event loop would stand still for 200 ms.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from forge_otel._internal.tasks import abandon_after
from forge_otel.errors import ForgeError, NotFound, NotOpen, Rejected, ServiceTimeout, ServiceUnavailable, needs

with needs("s3"):
    import aioboto3  # type: ignore[import-untyped]
    from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
    from aiohttp import ClientError as TransportError
    from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError  # type: ignore[import-untyped]
    from botocore.handlers import add_expect_header  # type: ignore[import-untyped]
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

__all__ = ["Answer", "Bucket", "Place", "Refused"]

_CONNECT_TIMEOUT_S: Final = 2.0
# A connection slower than this is taken for one that trickles.
_SLOWEST_BYTES_PER_S: Final = 256 * 2**10
# Each request is 2 ms of work for the event loop that also serves: so many at once hold it up for a hundredth or so.
_CONCURRENCY: Final = 6
# Above the concurrency of uploads, so that a read or a ping does not queue behind them.
_POOL: Final = _CONCURRENCY + 8
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})

Answer = dict[str, Any]
T = TypeVar("T")


class Refused(ServiceUnavailable):
    """S3 answered with an error.

    Args:
        operation: such as `put_object`.
        code: S3's own, such as `SlowDown`.
        status: of the HTTP answer.
    """

    code = "archive_refused"
    title = "The object store refused"
    remedy = "Look up S3's own code in the message: it says whether keys, the bucket or its policy are at fault."

    def __init__(self, operation: str, *, code: str, status: int, reason: str) -> None:
        super().__init__(f"S3 refused {operation} with {status} {code}: {reason[:200]}")
        self.operation = operation
        self.s3_code = code
        self.s3_status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a bucket is.

    Args:
        region: None takes the one of the AWS configuration.
        endpoint_url: of a store other than AWS; it is then addressed by path.
    """

    bucket: str
    region: str | None = None
    endpoint_url: str | None = None


class Bucket:
    """One bucket and the long-lived client for it; credentials come from the usual AWS chain.

    Args:
        place: where it is.
        timeout_s: deadline of a request; a large body gets the time that it takes at 256 KiB/s on top.

    `turn` is what requests that come in crowds are made within: six at a time.
    """

    def __init__(self, place: Place, *, timeout_s: float) -> None:
        self.place = place
        self.timeout_s = timeout_s
        self._opened: AsyncExitStack | None = None
        self._client: Any = None
        self.turn = asyncio.Semaphore(_CONCURRENCY)

    async def open(self) -> None:
        """Make the client; nothing is asked of the server yet."""
        session = await asyncio.to_thread(_warm_session, self._client_of)
        # What waits in a semaphore belongs to an event loop, and an archive may be opened again in another.
        self.turn = asyncio.Semaphore(_CONCURRENCY)
        async with AsyncExitStack() as opening:
            self._client = await opening.enter_async_context(self._client_of(session))
            self._client.meta.events.unregister("before-call.s3", add_expect_header)
            self._opened = opening.pop_all()

    async def close(self) -> None:
        """Close the client and its connections."""
        if self._opened is not None:
            opened, self._opened, self._client = self._opened, None, None
            await opened.aclose()

    async def call(self, operation: str, *, size_bytes: int = 0, timeout_s: float | None = None, **of: Any) -> Answer:
        """Ask once and return the parsed answer.

        Args:
            operation: the client's method, such as `put_object`.
            size_bytes: of the body, which lengthens the deadline.
            timeout_s: in place of the bucket's.
            of: the parameters of the operation, without `Bucket`.

        Raises:
            NotFound: the key does not exist.
            Rejected: the object is larger than the store ever takes.
            Refused: any other error answer.
            ServiceTimeout: no answer within the deadline.
            ServiceUnavailable: no connection, or an answer that is not S3's.
        """
        ask = getattr(self._ready(), operation)
        limit_s = (self.timeout_s if timeout_s is None else timeout_s) + size_bytes / _SLOWEST_BYTES_PER_S
        answer: Answer = await _translated(operation, ask(Bucket=self.place.bucket, **of), timeout_s=limit_s)
        return answer

    async def body(self, answer: Answer) -> bytes:
        """Read the body of an answer to `get_object`."""
        limit_s = self.timeout_s + int(answer.get("ContentLength", 0)) / _SLOWEST_BYTES_PER_S
        return await _translated("get_object", _read(answer["Body"]), timeout_s=limit_s)

    async def presign(self, operation: str, *, expires_s: int, **of: Any) -> str:
        """Return a URL that allows one operation until it expires; no request is made."""
        client = self._ready()
        work = client.generate_presigned_url(operation, Params={"Bucket": self.place.bucket, **of}, ExpiresIn=expires_s)
        url: str = await _translated(f"presigning {operation}", work, timeout_s=self.timeout_s)
        return url

    def _ready(self) -> Any:
        if self._client is None:
            raise NotOpen("the archive is not open; enter it with `async with archive:`")
        return self._client

    def _client_of(self, session: Any) -> Any:
        config = AioConfig(
            signature_version="s3v4",
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=self.timeout_s,
            max_pool_connections=_POOL,
            retries={"mode": "standard", "total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if self.place.endpoint_url else "auto"},
        )
        place = self.place
        return session.client("s3", region_name=place.region, endpoint_url=place.endpoint_url, config=config)


def _warm_session(client_of: Callable[[Any], Any]) -> Any:
    """Return a session that has read its models and found its credentials, by making a client and dropping it."""
    session = aioboto3.Session()

    async def make() -> None:
        async with client_of(session):
            pass

    asyncio.run(make())
    return session


async def _read(body: Any) -> bytes:
    # Leaving the body unread, as a deadline does, closes its connection.
    async with body:
        content: bytes = await body.read()
        return content


async def _translated(operation: str, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    try:
        return await abandon_after(work, timeout_s=timeout_s)
    except (TimeoutError, ConnectTimeoutError, ReadTimeoutError) as exc:
        raise ServiceTimeout(f"S3 gave no answer to {operation} within {timeout_s:.1f} s") from exc
    except ClientError as exc:
        raise _refusal(operation, exc) from exc
    except (BotoCoreError, ResponseParserError, TransportError, OSError) as exc:
        raise ServiceUnavailable(f"{operation} did not reach S3: {type(exc).__name__}: {exc}"[:500]) from exc


def _refusal(operation: str, exc: Any) -> ForgeError:
    error = exc.response.get("Error", {})
    code, status = str(error.get("Code", "")), int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return NotFound("nothing is archived there")
    if code in {"EntityTooLarge", "KeyTooLongError"}:
        return Rejected(f"S3 will never take this object: {code}")
    return Refused(operation, code=code, status=status, reason=str(error.get("Message", "")))
