"""``make demo REAL=1``: the main job on a real Redis, PostgreSQL and S3, which start and end with it.

    .venv/bin/python scripts/real_demo.py [--once]

The demo compares its table with database, archive and metrics through the library. This script then queries each server
with a plain client and compares the results.
"""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aioboto3
import asyncpg
from redis.asyncio import Redis

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "forge-demo"
ACCOUNT = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo-secret", "AWS_DEFAULT_REGION": "us-east-1"}


def main(arguments: list[str]) -> int:
    """Run the demo on real servers; 0 if every figure agrees with every other."""
    from forge_otel import cli

    os.environ.update(ACCOUNT)
    with started() as places:
        asyncio.run(make_bucket(places["s3"]))
        os.environ.update(
            FORGE_CACHE_URL=places["redis"],
            FORGE_DATABASE_URL=places["postgresql"],
            FORGE_ARCHIVE_URL=f"s3://{BUCKET}?endpoint_url={places['s3']}",
        )
        for name, place in places.items():
            print(f"{name:10} {place}")
        code = cli.main(["demo", *arguments])
        faults = asyncio.run(asked_themselves(places))
    for fault in faults:
        print(f"the servers do not agree: {fault}", file=sys.stderr)
    return code or int(bool(faults))


@contextmanager
def started() -> Iterator[Mapping[str, str]]:
    """The servers of the test suite, on free loopback ports; S3 is the strict one where it has been built."""
    sys.path.insert(0, str(ROOT))
    os.environ["PATH"] = f"{ROOT / '.cache' / 'tools'}{os.pathsep}{os.environ['PATH']}"
    from tests.servers import PostgresServer, RedisServer, S3Server, ServerMissing, StrictS3Server

    with ExitStack() as stack:
        redis, postgres = stack.enter_context(RedisServer()), stack.enter_context(PostgresServer())
        try:
            s3: S3Server | StrictS3Server = StrictS3Server()
        except ServerMissing:
            s3 = S3Server()
        stack.enter_context(s3)
        yield {"redis": redis.url, "postgresql": postgres.url, "s3": s3.url}


async def make_bucket(endpoint_url: str) -> None:
    """The archive's bucket has to exist."""
    async with s3_client(endpoint_url) as s3:
        await s3.create_bucket(Bucket=BUCKET)


def s3_client(endpoint_url: str) -> Any:
    """A plain client."""
    return aioboto3.Session().client("s3", endpoint_url=endpoint_url)


async def asked_themselves(places: Mapping[str, str]) -> list[str]:
    """Print what each server has, and return where they differ."""
    from forge_otel.layers.exact.layer import entry_key

    database = await asyncpg.connect(places["postgresql"].replace("+asyncpg", ""))
    try:
        row = await database.fetchrow(
            "SELECT count(*) AS generations, count(*) FILTER (WHERE source = 'L4') AS full,"
            " count(DISTINCT component_id) AS components, array_agg(DISTINCT key) FILTER (WHERE source = 'L4') AS keys,"
            " sum(cost_nano_usd) / 1e9 AS cost, sum(saved_nano_usd) / 1e9 AS saved FROM generations"
        )
    finally:
        await database.close()
    async with Redis.from_url(places["redis"]) as redis:
        entries = await redis.exists(*(entry_key(key) for key in row["keys"]))
    async with s3_client(places["s3"]) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [found["Key"] async for page in pages for found in page.get("Contents", ())]
    manifests = [key for key in keys if key.endswith("/manifest.json")]
    print("\nThe servers themselves")
    money = f"${row['cost']:.2f} spent, ${row['saved']:.2f} saved"
    print(f"  PostgreSQL {row['generations']} generations, {row['full']} in full, {money}")
    print(f"  Redis      {entries} answers of full generations")
    print(f"  S3         {len(manifests)} bundles, {len(keys) - len(manifests)} artifacts")
    pairs = {
        "answers in Redis, keys of full generations": (entries, len(row["keys"])),
        "bundles in S3, components in PostgreSQL": (len(manifests), row["components"]),
        "artifacts in S3, five a bundle": (len(keys) - len(manifests), 5 * len(manifests)),
    }
    return [f"{what}: {one} and {other}" for what, (one, other) in pairs.items() if one != other]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
