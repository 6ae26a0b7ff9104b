"""The database sink: rejected records, unavailable databases, and delivery through the outbox."""

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from tests.integration.database.tables import GENERATIONS, rows
from tests.unit.sinks.builders import ListSink, eventually, record

from forge_otel.errors import NotOpen, Rejected
from forge_otel.outbox.outbox import Outbox, OutboxOptions
from forge_otel.sinks.sql import SqlSink, open_url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite+aiosqlite:///{tmp_path}/folder/forge.db"


@pytest.fixture
async def sink(url: str) -> AsyncIterator[SqlSink]:
    """An open sink on an empty database of each kind."""
    async with SqlSink(url) as opened:
        yield opened


async def test_invalid_data_is_rejected(sink: SqlSink) -> None:
    """A single record is rejected; of several records the outbox finds the invalid one."""
    naive = record(created_at=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(Rejected):
        await sink.deliver([naive])
    with pytest.raises(ValueError, match="timezone"):
        await sink.deliver([record(), naive])

    assert await rows(sink.engine, GENERATIONS) == []


async def test_an_invalid_record_becomes_a_dead_letter(url: str, tmp_path: Path) -> None:
    """Through the outbox the invalid record is dropped, and all others are stored."""
    good = [record() for _ in range(60)]
    bad = record(cost_usd=Decimal(10) ** 20)
    sink = SqlSink(url)
    async with Outbox([sink], OutboxOptions(directory=tmp_path / "box", max_bytes=2**26, shutdown_timeout_s=5)) as box:
        for item in [*good[:30], bad, *good[30:]]:
            box.offer_nowait(item)
        await eventually(lambda: not box.stats().sinks["database"].waiting, timeout_s=20)
        assert box.stats().sinks["database"].dropped == {"rejected": 1}
        stored = await rows(sink.engine, GENERATIONS)

    assert {row["id"] for row in stored} == {item.id for item in good}


async def test_records_are_queued_while_the_database_is_down(tmp_path: Path) -> None:
    """The sink opens without its database, and the records are stored when it is available."""
    blocker = tmp_path / "folder"
    blocker.write_text("in the way")
    sink, other = SqlSink(f"sqlite+aiosqlite:///{blocker}/forge.db"), ListSink()
    async with Outbox(
        [sink, other], OutboxOptions(directory=tmp_path / "box", max_bytes=2**26, shutdown_timeout_s=5)
    ) as box:
        await box.offer(record())
        await eventually(lambda: other.ids and not box.stats().sinks["database"].is_up)
        with pytest.raises(NotOpen):
            await sink.ping()
        blocker.unlink()
        await eventually(lambda: box.stats().sinks["database"].delivered == 1)
        await sink.ping()


async def test_a_url_opens_a_sink(url: str) -> None:
    """`open_url` returns the sink of a URL."""
    assert open_url(url).url == url
