"""The bulk load process stores the range that it is sent, reports it, and ends with its input."""

from pathlib import Path

from tests.integration.outbox.test_bulk_load import check_exact, left_behind
from tests.unit.sinks.builders import record

from forge_otel.outbox.bulk_process import BulkProcess, Message
from forge_otel.outbox.codec import encode
from forge_otel.sinks.sql import SqlSink

COUNT = 300


async def test_a_range_is_stored_and_reported(tmp_path: Path, postgres_database: str) -> None:
    """`done` follows the reports, whose counts add up to the range."""
    records = [record() for _ in range(COUNT)]
    left_behind(tmp_path, [encode(item) for item in records])
    (journal,) = tmp_path.glob("*.journal")
    messages: list[Message | None] = []
    async with SqlSink(postgres_database) as sink:
        connect = sink.bulk_load_options()
        assert connect is not None
        process = BulkProcess(connect)
        process.start()
        try:
            messages.append(await process.receive(timeout_s=30))
            process.send({"path": str(journal), "after": 0, "last": COUNT})
            while (messages[-1] or {"done": True}).get("done") is None:
                messages.append(await process.receive(timeout_s=30))
        finally:
            process.kill()
    assert sum(message["count"] for message in messages if message and "count" in message) == COUNT
    await check_exact(postgres_database, records)
