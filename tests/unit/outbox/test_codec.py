"""Encoding of records: lossless, checksummed, and readable by older and newer releases."""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from zlib import crc32

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.sinks.builders import record

from forge_otel.database.writing.aggregates import AggregateRows
from forge_otel.database.writing.row_mapping import MappedRows, Row
from forge_otel.outbox.codec import DamagedRecord, decode, decode_without_artifacts, encode
from forge_otel.types import Cost, Record, Step, Usage

texts = st.text(alphabet=st.characters(), max_size=5)  # lone surrogates and NUL included
numbers = st.floats(allow_nan=False, allow_infinity=False)
money = st.decimals(allow_nan=False, allow_infinity=False)
moments = st.datetimes(
    timezones=st.one_of(st.just(UTC), st.integers(-86_000, 86_000).map(lambda s: timezone(timedelta(seconds=s))))
)
counts = st.integers(0, 2**70)
usages = st.builds(Usage, **dict.fromkeys([item.name for item in fields(Usage)], counts))
costs = st.builds(Cost, api=texts, model=texts, agent=texts, usage=usages, amount_usd=st.none() | money)
steps = st.builds(Step, name=texts, kind=texts, started_s=numbers, duration_s=numbers, error_type=st.none() | texts)
maybe = ("component_name", "figma_key", "screenshot_hash", "content_hash", "pattern_id", "user_id", "session_id")
optional = dict.fromkeys((*maybe, "tenant", "error_type", "error_message"), st.none() | texts)
always = ("id", "outcome", "pipeline", "pipeline_version", "component_type", "component_id", "key", "source")
plain = dict.fromkeys((*always, "origin_id", "trace_id"), texts)
records = st.builds(
    Record,
    **plain,
    **optional,
    created_at=moments,
    duration_s=numbers,
    cost_usd=money,
    saved_usd=money,
    costs=st.lists(costs, max_size=3).map(tuple),
    steps=st.lists(steps, max_size=3).map(tuple),
    misses=st.dictionaries(texts, texts, max_size=3),
    degraded=st.lists(texts, max_size=3).map(tuple),
    quality_score=st.none() | numbers,
    artifacts=st.dictionaries(texts, texts | st.binary(max_size=50), max_size=4),
    artifact_refs=st.dictionaries(texts, texts, max_size=3),
)


def rows_of(read: Callable[[bytes], Record], body: bytes) -> tuple[list[Row], list[Row], dict[str, list[Row]]] | str:
    """Return the rows for the database, or the name of the error."""
    try:
        batch = MappedRows.of([read(body)])
        aggregates = AggregateRows(batch)
    except (ArithmeticError, ValueError) as exc:
        return type(exc).__name__
    return batch.rows, aggregates.costs, aggregates.sums


@given(records)
def test_decoding_without_artifacts_gives_the_same_rows(original: Record) -> None:
    """The quick decoder and the exact one agree on every column."""
    body = encode(original)

    assert rows_of(decode_without_artifacts, body) == rows_of(decode, body)


@pytest.mark.parametrize("read", [decode, decode_without_artifacts])
def test_a_record_of_an_older_release_makes_the_same_rows(read: Callable[[bytes], Record]) -> None:
    """Both decoders give a missing field its default."""
    usual = record()
    old = {
        name: getattr(usual, name) for name in ("id", "duration_s", "outcome", "pipeline", "pipeline_version", "key")
    }
    old |= {"component_type": "button", "component_id": "b", "created_at": usual.created_at.isoformat()}
    exact = Record(**(old | {"created_at": usual.created_at}))

    assert rows_of(read, resealed(encode(usual), lambda _: old)) == rows_of(decode, encode(exact))


@pytest.mark.parametrize("read", [decode, decode_without_artifacts])
def test_a_head_without_required_fields_is_damaged(read: Callable[[bytes], Record]) -> None:
    """Both decoders raise, before the database does."""
    with pytest.raises(DamagedRecord, match="cannot be understood"):
        read(resealed(encode(record()), lambda head: {name: head[name] for name in ("id", "created_at", "duration_s")}))


@given(records)
def test_round_trip(original: Record) -> None:
    """Every value comes back exactly, with its type."""
    back = decode(encode(original))

    assert back == original
    assert str(back.cost_usd) == str(original.cost_usd)
    assert back.created_at.utcoffset() == original.created_at.utcoffset()


@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    """A frame with one changed bit raises, and is never read as another record."""
    frame = bytearray(encode(record()))
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(DamagedRecord):
        decode(bytes(frame))


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    """Bytes that were never a record raise `DamagedRecord`."""
    with pytest.raises(DamagedRecord):
        decode(data)


@given(st.integers(0, 200))
def test_cut_frames_are_refused(missing: int) -> None:
    """A frame without its end raises, for any length of the missing part."""
    frame = encode(record())

    with pytest.raises(DamagedRecord):
        decode(frame[: -1 - missing])


def test_fields_of_a_newer_release_are_ignored() -> None:
    """A record that a later release wrote with more fields is read without them."""
    original = record()
    more = [cost | {"region": "eu"} for cost in [*decode_head(encode(original))["costs"]]]
    frame = resealed(encode(original), lambda head: head | {"carbon_g": 3, "costs": more})

    assert decode(frame) == original


def test_fields_of_an_older_release_get_their_default() -> None:
    """A record that an earlier release wrote with fewer fields is read with defaults."""
    kept = {"id", "created_at", "duration_s", "outcome", "pipeline", "pipeline_version", "component_type"}
    kept |= {"component_id", "key", "artifacts"}
    frame = resealed(encode(record()), lambda head: {name: head[name] for name in kept})

    assert decode(frame).costs == ()
    assert decode(frame).saved_usd == Decimal(0)


def test_a_later_format_is_refused() -> None:
    """A frame of another format version raises."""
    with pytest.raises(DamagedRecord, match="later format"):
        decode(b"FGR2" + encode(record())[4:])


def test_a_head_that_is_no_record_is_refused() -> None:
    """An intact frame with other content raises the same error."""
    with pytest.raises(DamagedRecord, match="understood"):
        decode(resealed(encode(record()), lambda head: {"id": 1}))


def test_read_only_mappings_are_taken() -> None:
    """Fields may be mappings that are not dicts."""
    original = record(misses=MappingProxyType({"L1": "cold"}))

    assert decode(encode(original)).misses == {"L1": "cold"}


def test_a_value_of_the_wrong_type_is_named() -> None:
    """A value that cannot be encoded raises a TypeError with its type."""
    with pytest.raises(TypeError, match="object"):
        encode(record(tenant=object()))


def decode_head(frame: bytes) -> Any:
    """Return the JSON head of a frame."""
    return orjson.loads(frame[12 : 12 + int.from_bytes(frame[8:12], "little")])


def resealed(frame: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """Return the frame with another head and the right checksum."""
    head_length = int.from_bytes(frame[8:12], "little")
    head = orjson.dumps(change(decode_head(frame)))
    checked = len(head).to_bytes(4, "little") + head + frame[12 + head_length :]
    return b"FGR1" + crc32(checked).to_bytes(4, "little") + checked


def test_naive_times_stay_naive() -> None:
    """The codec keeps a naive time; sinks that need a timezone reject it."""
    original = record(created_at=datetime(2026, 1, 1))  # noqa: DTZ001

    assert decode(encode(original)) == original
