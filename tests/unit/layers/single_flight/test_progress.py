"""An event log keeps the events of one run, bounded, for followers that come and resume at any time."""

import asyncio

import pytest

from forge_otel.errors import BadRequest
from forge_otel.layers.single_flight.progress import EventLog, decode_event, parse_event_id
from forge_otel.types import Event


async def test_a_follower_gets_all_events_until_the_log_is_closed() -> None:
    """Also those that a thread appends."""
    log = EventLog()
    log.start(7, {})

    async def kinds(after: tuple[int, int]) -> list[str]:
        return [progress.kind async for progress in log.follow(after)]

    early, late = asyncio.create_task(kinds((0, 0))), asyncio.create_task(kinds((7, 2)))
    await asyncio.to_thread(log.append, "model_call", {"model": "m"})
    log.close("done", {})
    assert [await early, await late] == [["started", "model_call", "done"], ["done"]]
    log.append("model_call", {})
    assert len(log.events) == 3


async def test_long_and_undecodable_facts_are_cut() -> None:
    """A string keeps 128 characters; facts with a lone surrogate are dropped."""
    log = EventLog()
    log.start(1, {"name": "x" * 1000})
    log.append("step_started", {"name": "\ud800"})
    first, second = map(decode_event, log.events)
    assert (len(first.facts["name"]), second.facts) == (128, {})


@pytest.mark.parametrize("data", [b"", b"garbage", b"[]", b"{}", b'{"kind":"done","at_s":"x","facts":{}}'])
def test_an_undecodable_event_is_unknown(data: bytes) -> None:
    """It keeps its id, so that a follower can resume after it."""
    progress = decode_event(Event(fence=3, number=4, data=data))
    assert (progress.id, progress.kind) == ("3-4", "unknown")


@pytest.mark.parametrize(("event_id", "expected"), [("", (0, 0)), ("17-3", (17, 3))])
def test_an_event_id_is_parsed(event_id: str, expected: tuple[int, int]) -> None:
    """An empty id means the beginning."""
    assert parse_event_id(event_id) == expected


@pytest.mark.parametrize("event_id", ["x", "1", "1-", "-1-2", "1-2-3", "\u0661-1", "1" * 19 + "-1"])
def test_another_event_id_is_rejected(event_id: str) -> None:
    """It comes from the header of a client."""
    with pytest.raises(BadRequest):
        parse_event_id(event_id)
