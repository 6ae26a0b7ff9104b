"""kill -9 of the whole service under load, again and again, while S3 and PostgreSQL come and go.

Every answered generation is in the database once, its costs are counted once, and its artifacts are in the archive byte
for byte. TORTURE_KILLS sets the number of kills, and TORTURE_SEED repeats the random choices of an earlier run, whose
seed is in the output of a failed test; the timing of the machine still differs.
"""

import asyncio
import hashlib
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from signal import SIGKILL
from typing import Any, Final

import aioboto3
import httpx
import pytest
from tests.chaos.injections import S3_DENIED, S3_FULL
from tests.chaos.rows import ROWS
from tests.chaos.site import BODY, ForkServer, Row, Site, StandIns, running_site, until
from tests.servers import RedisServer

from forge_otel.database.writing.aggregates import CACHE_STAT_COLUMNS, ROLLUP_COLUMNS, AggregateRows
from forge_otel.database.writing.row_mapping import MappedRows
from forge_otel.keys import artifact_key
from forge_otel.sinks.s3 import options as s3_options
from forge_otel.testing.faults.proxy import CutOff, Fault, FaultProxy, Refuse, Reset, Silent
from forge_otel.types import Cost, Record

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KILLS: Final = int(os.environ.get("TORTURE_KILLS", "12"))
SEED: Final = int(os.environ.get("TORTURE_SEED") or random.SystemRandom().randrange(2**32))
CALLERS: Final = 6
SHARED: Final = 4
"""Components that are generated again and again."""
# The other kills come after some answers.
DEATHS_AT_START: Final = 0.2
LONGEST_START_S: Final = 0.6
LONGEST_LIFE_S: Final = 1.5
LONGEST_FAULT_S: Final = 1.5
LONGEST_PEACE_S: Final = 1.0
PATIENCE_S: Final = 60.0
DRAINED_WITHIN_S: Final = 120.0
FIRST_BYTES: Final = 2_000
"""Maximum number of bytes from the server before a connection is cut, which loses the answers of finished work."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Answer to a caller: the component, and the SHA-256 of each of its artifacts."""

    component_id: str
    hashes: Mapping[str, str]


class Callers:
    """Callers that send requests without a pause and keep every complete answer."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self.answers: dict[str, Answered] = {}
        self.statuses: Counter[int] = Counter()
        self.cut_off = 0
        """Requests without an answer that may have reached the service."""
        self._site = site
        self._chance = chance
        self._asked: list[dict[str, Any]] = []
        self._is_over = False

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Send requests inside the block; await the open ones at its end."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._call())
            try:
                yield
            finally:
                self._is_over = True

    async def another_answer(self) -> None:
        """Wait for the next answer."""
        before = self.statuses[200]

        async def has_come() -> bool:
            return self.statuses[200] > before

        await until(has_come, timeout_s=PATIENCE_S)

    async def _call(self) -> None:
        while not self._is_over:
            body = self._order()
            try:
                response = await self._site.client.post("/generate", json=body)
            except httpx.ConnectError:
                await asyncio.sleep(0.02)
            except httpx.HTTPError:
                self.cut_off += 1
            else:
                self.statuses[response.status_code] += 1
                if response.status_code == 200:
                    self._remember(response.json())

    def _order(self) -> dict[str, Any]:
        """Return a new request, for a new or a shared component, or repeat an earlier one."""
        if self._asked and self._chance.random() < 0.25:
            return self._chance.choice(self._asked)
        number = len(self._asked)
        component_id = f"shared-{number % SHARED}" if self._chance.random() < 0.25 else f"own-{number}"
        # The name is in every artifact, so that no two generations have the same ones.
        self._asked.append(BODY | {"component_id": component_id, "component_name": f"Badge{number}"})
        return self._asked[-1]

    def _remember(self, answer: dict[str, Any]) -> None:
        hashes = {name: sha256(text.encode()) for name, text in answer["artifacts"].items()}
        assert len(hashes) == 5
        assert answer["generation_id"] not in self.answers
        self.answers[answer["generation_id"]] = Answered(answer["component_id"], hashes)


async def test_nothing_answered_is_lost_or_doubled(
    request: pytest.FixtureRequest, fork_server: ForkServer, stand_ins: StandIns, redis_server: RedisServer
) -> None:
    """After kills at random moments and failing stores, every answered generation is stored exactly once."""
    print(f"TORTURE_SEED={SEED}")
    chance = random.Random(SEED)
    async with AsyncExitStack() as stack:
        row = await stack.enter_async_context(row_of_both(request))
        site = await stack.enter_async_context(running_site(fork_server, stand_ins, redis_server, row=row))
        await until(lambda: is_drained(site), timeout_s=DRAINED_WITHIN_S, poll_s=0.1)
        earlier = site.stored().keys()
        await site.stop()
        callers = Callers(site, chance)
        async with flapping(row, chance), callers.calling():
            for _ in range(KILLS):
                await live_and_die(site, callers, chance)
            await site.start()
            await callers.another_answer()
        await until(lambda: is_drained(site), timeout_s=DRAINED_WITHIN_S, poll_s=0.1)
        await site.stop()
        print(f"{KILLS} kills, answers {dict(callers.statuses)}, {callers.cut_off} cut off")

        records = stored_records(row)
        finished = [record.id for record in records if record.outcome == "ok" and record.id not in earlier]
        assert callers.statuses[200] == len(callers.answers) > KILLS / 2
        assert callers.answers.keys() <= set(finished)
        assert len(finished) == len(set(finished)) <= len(callers.answers) + callers.cut_off
        assert_counted_once(row, records)
        await assert_archived(row, records, callers.answers)
        # No journal, damaged file or dead letter is left.
        assert [path.name for path in (site.folder / "outbox").iterdir()] == []
        assert "Traceback" not in site.log()


@asynccontextmanager
async def row_of_both(request: pytest.FixtureRequest) -> AsyncIterator[Row]:
    """PostgreSQL as the database and S3 as the archive, each behind its own proxy."""
    async with ROWS["PostgreSQL"](request) as database, ROWS["S3"](request) as archive:
        yield replace(
            database,
            proxies={**database.proxies, **archive.proxies},
            settings={**database.settings, **archive.settings},
            environ={**database.environ, **archive.environ},
        )


@asynccontextmanager
async def flapping(row: Row, chance: random.Random) -> AsyncIterator[None]:
    """Make the stores fail and recover, independently of each other."""
    more = {"S3": (S3_DENIED, S3_FULL)}
    tasks = [
        asyncio.create_task(flap(proxy, more.get(name, ()), random.Random(chance.random())))
        for name, proxy in row.proxies.items()
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def flap(proxy: FaultProxy, more: Sequence[Fault], chance: random.Random) -> None:
    """Make a store fail and recover until cancelled, and leave it working."""
    while True:
        cut = CutOff(after_bytes=chance.randrange(FIRST_BYTES))
        async with proxy.fault(chance.choice([Refuse(), Silent(), Reset(), cut, *more])):
            await asyncio.sleep(chance.uniform(0, LONGEST_FAULT_S))
        await asyncio.sleep(chance.uniform(0, LONGEST_PEACE_S))


async def live_and_die(site: Site, callers: Callers, chance: random.Random) -> None:
    """Start the service on the files of the last one, and kill it during the start or some time after an answer."""
    if chance.random() < DEATHS_AT_START:
        await site.launch()
        await asyncio.sleep(chance.uniform(0, LONGEST_START_S))
    else:
        await site.start()
        await callers.another_answer()
        await asyncio.sleep(chance.uniform(0, LONGEST_LIFE_S))
    await site.stop(SIGKILL)


async def is_drained(site: Site) -> bool:
    """Return whether the sinks have every record; no record may be dropped."""
    counts = (await site.observe()).sinks
    assert all(not count.dropped for count in counts.values()), counts
    return bool(counts) and all(count.delivered == count.produced for count in counts.values())


def stored_records(row: Row) -> list[Record]:
    """Return the stored generations as records, with the fields from which the sums are computed."""
    costs: defaultdict[str, list[Cost]] = defaultdict(list)
    for generation_id, api, amount in select(
        row, "SELECT generation_id, api, amount_nano_usd FROM costs ORDER BY generation_id, seq"
    ):
        costs[generation_id].append(Cost(api=api, amount_usd=None if amount is None else usd(amount)))
    names = "id, created_at, duration_s, outcome, component_type, component_id, source, error_type"
    found = select(row, f"SELECT {names}, cost_nano_usd, saved_nano_usd, misses FROM generations")
    records = [
        Record(
            **dict(zip(names.split(", "), values, strict=True)),
            pipeline="",
            pipeline_version="",
            key="",
            cost_usd=usd(cost),
            saved_usd=usd(saved),
            costs=tuple(costs.pop(values[0], ())),
            misses=json.loads(misses),
        )
        for *values, cost, saved, misses in found
    ]
    assert not costs, "costs of generations that are missing"
    return records


def assert_counted_once(row: Row, records: Sequence[Record]) -> None:
    """Check that the costs of each generation add up to its price, and the sums to the stored generations."""
    for record in records:
        amounts = [cost.amount_usd for cost in record.costs if cost.amount_usd is not None]
        assert sum(amounts, Decimal()) == record.cost_usd, record.id
    assert sum(record.cost_usd for record in records) > 0
    sums = AggregateRows(MappedRows.of(records)).sums
    for table, columns in (("cache_stats", CACHE_STAT_COLUMNS), ("rollups", ROLLUP_COLUMNS)):
        expected = sums[table]
        assert expected
        assert Counter(select(row, f"SELECT {', '.join(columns)} FROM {table}")) == Counter(expected), table


async def assert_archived(row: Row, records: Sequence[Record], answers: Mapping[str, Answered]) -> None:
    """Check that the archive holds exactly the artifacts of each component's newest generation."""
    newest: dict[str, tuple[datetime, str]] = {}
    for record in records:
        if record.outcome == "ok":
            age = (record.created_at, record.id)
            newest[record.component_id] = max(age, newest.get(record.component_id, age))
    stored = await objects(row)
    proved = 0
    for component_id, (_, generation_id) in newest.items():
        manifest = json.loads(stored[f"components/{component_id}/manifest.json"])
        listed = {name: artifact["sha256"] for name, artifact in manifest["artifacts"].items()}
        found = {name: sha256(stored[artifact_key(component_id, name)]) for name in listed}
        assert found == listed, component_id
        # A generation whose answer was cut off has no caller to compare with.
        if generation_id in answers:
            assert answers[generation_id].component_id == component_id
            assert found == answers[generation_id].hashes, component_id
            proved += 1
    assert len(stored) == 6 * len(newest)
    assert {answer.component_id for answer in answers.values()} <= newest.keys()
    print(f"{len(records)} generations, {proved} of {len(newest)} components compared with an answer")
    assert proved > len(newest) / 2


async def objects(row: Row) -> dict[str, bytes]:
    """Return the objects of the bucket, and check that no multipart upload is left in it."""
    target = s3_options.parse(row.settings["archive_url"])
    async with aioboto3.Session().client("s3", endpoint_url=target.endpoint_url) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=target.bucket)
        keys = [found["Key"] async for page in pages for found in page.get("Contents", ())]
        answers = [await s3.get_object(Bucket=target.bucket, Key=key) for key in keys]
        assert not (await s3.list_multipart_uploads(Bucket=target.bucket)).get("Uploads")
        return {key: await answer["Body"].read() for key, answer in zip(keys, answers, strict=True)}


def select(row: Row, query: str) -> list[tuple[Any, ...]]:
    """Run a query in the database."""
    assert row.select is not None
    return row.select(query)


def usd(nano: int) -> Decimal:
    """Return an amount in dollars."""
    return Decimal(nano).scaleb(-9)


def sha256(content: bytes) -> str:
    """Return the digest, in hex."""
    return hashlib.sha256(content).hexdigest()
