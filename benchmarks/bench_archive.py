"""How much time of the event loop does archiving to S3 take, in health and during an outage of S3?

CPU time of the loop's own thread, without that of the server and the proxy: for a new object, for a bundle that is
stored already, and for an outage; and the longest iteration of the loop meanwhile, for which a request in flight
waits. The responses are real: of versitygw where it is on the PATH, otherwise of moto. Check: every object is in the
bucket, byte for byte.
"""

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))

import aioboto3
from tests.servers import S3Server, StrictS3Server
from tests.servers.strict_s3 import is_built
from tests.unit.sinks.builders import record

from forge_otel.outbox.outbox import Outbox, OutboxOptions
from forge_otel.sinks.archive import Bundle
from forge_otel.sinks.s3.sink import S3Archive, open_url
from forge_otel.testing.faults.http import HttpAnswer
from forge_otel.testing.faults.proxy import FaultProxy, Garbage, Refuse
from forge_otel.types import Record

BUCKET: Final = "loop-time"
ARTIFACTS: Final = {f"artifact-{number}.json": json.dumps({"text": "x" * 4_000 * number}) for number in range(1, 6)}
OUTAGE_S: Final = 2.5


def said(status: int, code: str) -> HttpAnswer:
    """An error response of S3."""
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return HttpAnswer(status=status, body=body, content_type="application/xml")


FAULTS: Final = {
    "garbage": Garbage(),
    "auth error": said(403, "AccessDenied"),
    "full": said(507, "InsufficientCapacity"),
    "refused": Refuse(),
}


class Beside:
    """A proxy in front of the store, on a thread and an event loop of its own."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._proxy = FaultProxy("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._proxy.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def url(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self._proxy.port}"

    def set(self, fault: Any) -> None:
        """Inject a fault, or end it with None."""

        async def change() -> None:
            self._proxy.set(fault)

        self._run(change())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


async def timed(work: Callable[[], Awaitable[Any]]) -> dict[str, float]:
    """CPU time of the loop's thread during `work`, and its longest iteration, in milliseconds."""
    turns: list[float] = []
    is_over = False

    async def probe() -> None:
        while not is_over:
            last = time.thread_time()
            # Seldom enough that the probing itself does not dominate.
            await asyncio.sleep(0.0005)
            turns.append(time.thread_time() - last)

    probing = asyncio.create_task(probe())
    await asyncio.sleep(0)
    began = time.thread_time()
    await work()
    spent = time.thread_time() - began
    is_over = True
    await probing
    return {"ms": spent * 1e3, "longest_turn_ms": max(turns) * 1e3}


def made(count: int, stem: str) -> list[Record]:
    """Generations with five artifacts each."""
    return [record(component_id=f"{stem}-{number}", artifacts=ARTIFACTS) for number in range(count)]


async def idle(seconds: float) -> float:
    """CPU time of the probing alone in milliseconds, to subtract."""
    return (await timed(lambda: asyncio.sleep(seconds)))["ms"]


async def proved(archive: S3Archive, records: list[Record]) -> None:
    """Check that every object is stored."""
    for one in records:
        for key, content in Bundle.of(one).objects.items():
            if await archive.read(key) != content:
                raise SystemExit(f"{key} is not what was stored")


async def outage(proxy: Beside, url: str, fault: Any, *, stem: str, waiting: int) -> dict[str, float]:
    """An outage of the archive, with records that are queued in the outbox meanwhile."""
    archive, records = open_url(url), made(waiting, stem)
    async with Outbox([archive], OutboxOptions(directory=None, max_bytes=2**28, shutdown_timeout_s=5)) as box:
        (known,) = made(1, f"{stem}-known")
        await box.offer(known)
        await box.drain(timeout_s=10)
        proxy.set(fault)
        for one in records[: waiting // 2]:
            box.offer_nowait(one)

        async def go_on() -> None:
            for one in records[waiting // 2 :]:
                await asyncio.sleep(OUTAGE_S / waiting * 2)
                box.offer_nowait(one)

        found = await timed(go_on)
        proxy.set(None)
        if not await box.drain(timeout_s=60):
            raise SystemExit("not all was delivered after the outage")
        await proved(archive, records)
    return found


async def measure(proxy: Beside, endpoint: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one store."""
    async with aioboto3.Session().client("s3", endpoint_url=endpoint) as s3:
        await s3.create_bucket(Bucket=BUCKET)
    url = f"s3://{BUCKET}?timeout_s=5&endpoint_url={proxy.url}"
    probing = await idle(OUTAGE_S) / OUTAGE_S
    found: dict[str, Any] = {}
    async with open_url(url) as archive:
        await archive.deliver(made(3, "warm"))
        records = made(options.bundles, "stored")
        for title, requests in (("stored", options.bundles * 7), ("known", options.bundles)):
            began = time.monotonic()
            figures = await timed(lambda: archive.deliver(records))
            spent = figures["ms"] - probing * (time.monotonic() - began)
            found[title] = {
                "ms_per_request": round(spent / requests, 2),
                "longest_turn_ms": round(figures["longest_turn_ms"], 1),
            }
        await proved(archive, records)
    for title, fault in FAULTS.items():
        figures = await outage(proxy, url, fault, stem=title.replace(" ", "-"), waiting=options.waiting)
        found[title] = {
            "ms_per_outage": round(figures["ms"] - probing * OUTAGE_S, 1),
            "longest_turn_ms": round(figures["longest_turn_ms"], 1),
        }
    return found


@contextmanager
def server() -> Iterator[tuple[str, str]]:
    """A store, and its name."""
    with StrictS3Server() if is_built() else S3Server() as running:
        yield running.url, running.name


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--bundles", type=int, default=40)
    parser.add_argument("--waiting", type=int, default=40, help="records that are offered during the outage")
    options = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_DEFAULT_REGION="us-east-1")
    with server() as (endpoint, name), Beside(urlsplit(endpoint).port or 0) as proxy:
        found = {"store": name} | asyncio.run(measure(proxy, endpoint, options))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"store: {found.pop('store')}")
    for title, figures in found.items():
        (name, value), (_, longest) = figures.items()
        print(f"  {title:12} {value:8} {name.replace('_', ' '):16} longest iteration of the loop {longest:6} ms")


if __name__ == "__main__":
    main()
