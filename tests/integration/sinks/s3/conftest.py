"""Empty buckets on real S3 servers, with and without a fault proxy."""

import itertools
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.integration.sinks.s3.archives import client_for, open_archive

from forge_otel.sinks.s3.sink import S3Archive
from forge_otel.testing.faults.proxy import FaultProxy

numbers = itertools.count(1)


@pytest.fixture
async def s3(s3_endpoint: str) -> AsyncIterator[Any]:
    """A plain client of the server."""
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
    """A fault proxy in front of the server."""
    parts = urlsplit(s3_endpoint)
    async with FaultProxy(parts.hostname or "", parts.port or 0) as opened:
        yield opened


@pytest.fixture
async def proxied(bucket: str, proxy: FaultProxy) -> AsyncIterator[S3Archive]:
    """An open archive behind the proxy, with the default deadline."""
    async with open_archive(bucket, f"http://127.0.0.1:{proxy.port}") as opened:
        yield opened


@pytest.fixture
async def shaky(bucket: str, proxy: FaultProxy) -> AsyncIterator[S3Archive]:
    """An open archive behind the proxy, with a deadline of half a second."""
    async with open_archive(bucket, f"http://127.0.0.1:{proxy.port}", timeout_s="0.5") as opened:
        yield opened


@pytest.fixture
def is_emulator(s3_endpoint: str, request: pytest.FixtureRequest) -> bool:
    """True for moto, which supports lifecycle rules and encryption; the gateway supports neither."""
    return bool(request.node.callspec.params["s3_endpoint"] == "moto")
