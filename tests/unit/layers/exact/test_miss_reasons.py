"""A miss says what differs from the nearest earlier request, and garbage in its note costs only the reason."""

from typing import Any

import pytest

from forge_otel.keys import generation_key
from forge_otel.layers.exact import miss_reasons
from forge_otel.types import Call, GenerationRequest, GenerationResult

ASKED: dict[str, Any] = {
    "component_type": "button",
    "figma_key": "f",
    "content_hash": "1",
    "tokens": {"color": "#fff"},
    "requirements": {"size": "4px"},
    "tenant": "t",
}


async def _never() -> GenerationResult:
    raise AssertionError


def _call(version: str = "1", **changes: Any) -> Call:
    request = GenerationRequest(**ASKED | changes)
    key = generation_key(request, pipeline="p", version=version)
    return Call(request=request, pipeline="p", key=key, component_id="c", run=_never)


def _reason(call: Call, notes: list[miss_reasons.Fingerprint], **options: Any) -> str:
    return miss_reasons.explain(notes, call, **{"version": "1", "now_s": 1000.0, "ttl_s": None} | options)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content_hash": "2"}, "content"),
        ({"tokens": {"color": "#000"}}, "tokens"),
        ({"requirements": {"size": "8px"}}, "requirements"),
        ({"pattern_id": "p"}, "pattern"),
        ({"content_hash": "2", "tokens": {}}, "content"),
    ],
)
def test_the_part_that_differs_is_named(change: dict[str, Any], reason: str) -> None:
    """One earlier request is enough to say what a designer changed."""
    notes = miss_reasons.remember([], _call(), version="1", now_s=1.0)
    assert _reason(_call(**change), notes) == reason


def test_a_new_version_of_the_pipeline_is_named() -> None:
    """After a release every answer misses, and says so."""
    notes = miss_reasons.remember([], _call(), version="1", now_s=1.0)
    assert _reason(_call(version="2"), notes, version="2") == "version"


def test_of_many_earlier_requests_the_nearest_is_compared() -> None:
    """What differs in one part is nearer than what differs in two, whatever came last."""
    notes = miss_reasons.remember([], _call(tokens={"color": "#000"}), version="1", now_s=1.0)
    notes = miss_reasons.remember(notes, _call(content_hash="9", requirements={}), version="1", now_s=2.0)
    assert _reason(_call(), notes) == "tokens"


def test_an_answer_that_was_there_has_expired_or_was_evicted() -> None:
    """The life of the entries tells the two apart."""
    notes = miss_reasons.remember([], _call(), version="1", now_s=100.0)
    assert _reason(_call(), notes, now_s=161.0, ttl_s=60.0) == "expired"
    assert _reason(_call(), notes, now_s=130.0, ttl_s=60.0) == "evicted"
    assert _reason(_call(), notes) == "evicted"


def test_a_note_stays_small() -> None:
    """A thousand requests leave eight notes of digests, in which nothing can be read."""
    notes: list[miss_reasons.Fingerprint] = []
    for number in range(1000):
        notes = miss_reasons.remember(notes, _call(tokens={"secret-name": number}), version="1", now_s=1.0)
    blob = miss_reasons.pack(notes)
    assert len(miss_reasons.unpack(blob)) == 8
    assert len(blob) < 2048
    assert b"secret" not in blob


@pytest.mark.parametrize(
    "blob", [None, b"", b"garbage", b"[", b"{}", b"5", b"[1]", b'["abcdefg"]', b"[[1,2,3,4,5,6,7]]", b"[" * 9000]
)
def test_garbage_is_no_note(blob: bytes | None) -> None:
    """A damaged or forged note is none."""
    notes = miss_reasons.unpack(blob)
    assert _reason(_call(), notes) in {"cold", *miss_reasons._PARTS}
    assert all(len(note) == miss_reasons._FIELDS for note in notes)


def test_another_tenant_learns_nothing() -> None:
    """Notes of tenants lie apart."""
    assert miss_reasons.history_key(_call(tenant="a")) != miss_reasons.history_key(_call(tenant="b"))
