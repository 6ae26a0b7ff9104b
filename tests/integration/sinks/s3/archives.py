"""Archives in a bucket, and faults in front of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aioboto3
from tests.unit.sinks.builders import record

from forge_otel._runtime.plugins import load
from forge_otel.sinks.s3.sink import S3Archive
from forge_otel.sinks.s3.upload import PART_BYTES
from forge_otel.testing.faults.http import HttpAnswer

ITEM = record(artifacts={"component.tsx": "export {}"})

CODE = "components/button-1/component.tsx"

LARGE = bytes(range(256)) * (2 * PART_BYTES // 256) + b"the rest"


@asynccontextmanager
async def client_for(endpoint: str) -> AsyncIterator[Any]:
    """A plain client, to inspect the bucket."""
    async with aioboto3.Session().client("s3", endpoint_url=endpoint) as client:
        yield client


def open_archive(bucket: str, endpoint: str, **options: str) -> S3Archive:
    """The archive of an `s3://` URL with these options."""
    url = f"s3://{bucket}?{urlencode({'endpoint_url': endpoint, **options})}"
    opened: S3Archive = load("sinks", url)(url)
    return opened


CAPTIVE = HttpAnswer(status=200, body=b"<html><body>Log in</body></html>", content_type="text/html")

SLOW_DOWN = HttpAnswer(
    status=503,
    body=b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>",
    content_type="application/xml",
)
