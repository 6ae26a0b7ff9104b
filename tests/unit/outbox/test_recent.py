"""The ring buffer of recent records."""

from tests.unit.sinks.builders import record

from forge_otel.outbox.recent import RecentRecords


async def test_newest_records_come_first_without_contents() -> None:
    """The buffer keeps the newest records, without their artifacts."""
    recent = RecentRecords(capacity=3)
    items = [record(id=f"0{n}") for n in range(5)]

    await recent.deliver(items)

    assert [item.id for item in recent.records()] == ["04", "03", "02"]
    assert all(item.artifacts == {} for item in recent.records())
    assert recent.records(1)[0].artifact_refs == items[-1].artifact_refs


async def test_a_record_is_kept_once() -> None:
    """A repeated delivery evicts no record."""
    recent = RecentRecords(capacity=2)
    item = record(id="1")

    await recent.deliver([item, item])
    await recent.deliver([item])
    await recent.deliver([record(id="2")])

    assert [item.id for item in recent.records()] == ["2", "1"]


async def test_records_are_filtered() -> None:
    """Records are found by type, by outcome and by id."""
    recent = RecentRecords()
    await recent.deliver([record(id="1"), record(id="2", component_type="card"), record(id="3", outcome="error")])

    assert [item.id for item in recent.records(component_type="button")] == ["3", "1"]
    assert [item.id for item in recent.records(outcome="error")] == ["3"]
    assert recent.records(0) == []
    assert recent.get("2") is not None
    assert recent.get("9") is None
