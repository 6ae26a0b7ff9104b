"""Special dependencies of the service for some rows of the matrix.

Each function yields a `Row`: the proxy in front of the dependency, and the settings that point the service to it.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aioboto3
import asyncpg
import pytest
from tests.chaos.site import LOOPBACK, Row
from tests.servers import StrictS3Server
from tests.servers.strict_s3 import is_built

from componentforge.serving import serve
from forge_otel.testing.faults.proxy import FaultProxy
from forge_otel.testing.langsmith.server import LangSmithStandIn
from forge_otel.testing.qdrant import QdrantStandIn

__all__ = ["ROWS"]

REGION: Final = {"AWS_DEFAULT_REGION": "us-east-1"}
numbers = itertools.count(1)


@asynccontextmanager
async def s3_row(request: pytest.FixtureRequest) -> AsyncIterator[Row]:
    """The archive is a bucket, on the strict server if it is built, else on the emulator."""
    if is_built():
        async with StrictS3Server() as server, s3_archive(server.url) as row:
            yield row
        return
    async with s3_archive(request.getfixturevalue("moto_endpoint")) as row:
        yield row


@asynccontextmanager
async def s3_archive(endpoint_url: str) -> AsyncIterator[Row]:
    """An empty bucket behind a proxy."""
    bucket = f"faults-{next(numbers)}"
    port = urlsplit(endpoint_url).port or 0

    async def archived() -> set[str]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [found["Key"].split("/") async for page in pages for found in page.get("Contents", ())]
        files: dict[str, set[str]] = {}
        for _, component_id, name in keys:
            files.setdefault(component_id, set()).add(name)
        return {component_id for component_id, names in files.items() if "manifest.json" in names and len(names) == 6}

    # One client for all requests: loading the models of another would block the event loop of the proxies.
    async with (
        aioboto3.Session().client("s3", endpoint_url=endpoint_url) as s3,
        FaultProxy(LOOPBACK, port) as proxy,
    ):
        await s3.create_bucket(Bucket=bucket)
        url = f"s3://{bucket}?timeout_s=2&endpoint_url=http://{LOOPBACK}:{proxy.port}"
        yield Row(proxies={"S3": proxy}, settings={"archive_url": url}, environ=REGION, archived=archived)


@asynccontextmanager
async def langsmith_row(request: pytest.FixtureRequest) -> AsyncIterator[Row]:
    """Runs are exported to a LangSmith stand-in behind a proxy."""
    spool = request.getfixturevalue("tmp_path") / "spool"
    with LangSmithStandIn(api_key="key") as langsmith:

        def traced() -> Counter[str]:
            runs = [run for run in langsmith.runs() if run.name.startswith("invoke_workflow")]
            return Counter(str(run.metadata.get("forge.generation.id")) for run in runs)

        async with FaultProxy(LOOPBACK, langsmith.port) as proxy:
            yield Row(
                proxies={"LangSmith": proxy},
                settings={"trace_spool_dir": str(spool)},
                environ={"LANGSMITH_API_KEY": "key", "LANGSMITH_ENDPOINT": proxy.url_for(langsmith.url)},
                traced=traced,
            )


@asynccontextmanager
async def postgres_row(request: pytest.FixtureRequest) -> AsyncIterator[Row]:
    """The database is PostgreSQL behind a proxy."""
    server = request.getfixturevalue("postgres_server")

    async def select(query: str) -> list[tuple[str, str]]:
        connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    def select_past_the_proxy(query: str) -> list[tuple[str, str]]:
        # In a thread, because this one runs an event loop.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, select(query)).result()

    async with FaultProxy(LOOPBACK, server.port) as proxy:
        settings = {"database_url": proxy.url_for(server.url)}
        yield Row(proxies={"PostgreSQL": proxy}, settings=settings, postgres=server, select=select_past_the_proxy)


@asynccontextmanager
async def qdrant_row(_request: pytest.FixtureRequest) -> AsyncIterator[Row]:
    """Vectors are in a Qdrant stand-in behind a proxy."""
    async with serve(QdrantStandIn().app) as url, FaultProxy(LOOPBACK, urlsplit(url).port or 0) as proxy:
        yield Row(proxies={"Qdrant": proxy}, settings={"vector_url": f"qdrant://{LOOPBACK}:{proxy.port}"})


@asynccontextmanager
async def otlp_row(request: pytest.FixtureRequest) -> AsyncIterator[Row]:
    """Spans are exported to an OTLP endpoint behind a proxy."""
    spool = request.getfixturevalue("tmp_path") / "spool"
    # The LangSmith stand-in accepts OTLP under its own path.
    with LangSmithStandIn() as server:

        def traced() -> Counter[str]:
            # A span that was sent twice has the same id.
            spans = {span.span_id: span for span in server.spans if span.name.startswith("invoke_workflow")}
            found = (item for span in spans.values() for item in span.attributes if item.key == "forge.generation.id")
            return Counter(item.value.string_value for item in found)

        async with FaultProxy(LOOPBACK, server.port) as proxy:
            yield Row(
                proxies={"OTLP": proxy},
                settings={"trace_spool_dir": str(spool)},
                environ={"OTEL_EXPORTER_OTLP_ENDPOINT": proxy.url_for(f"{server.url}/otel")},
                traced=traced,
            )


ROWS: Final[Mapping[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Row]]]] = {
    "LangSmith": langsmith_row,
    "PostgreSQL": postgres_row,
    "Qdrant": qdrant_row,
    "OTLP": otlp_row,
    "S3": s3_row,
}
"""Rows by dependency; other dependencies use the default service."""
