"""A miss names what differs from the most similar earlier request; a damaged history costs only the reason."""

from typing import Any

import pytest

from forge_otel.keys import generation_key
from forge_otel.layers.exact import miss_reasons
from forge_otel.types import Call, GenerationRequest, GenerationResult

FIELDS: dict[str, Any] = {
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
    request = GenerationRequest(**FIELDS | changes)
    key = generation_key(request, pipeline="p", version=version)
    return Call(request=request, pipeline="p", key=key, component_id="c", run=_never)


def _reason(call: Call, history: list[miss_reasons.Fingerprint], **options: Any) -> str:
    return miss_reasons.explain(history, call, **{"version": "1", "now_s": 1000.0, "ttl_s": None} | options)


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
def test_the_reason_is_the_part_that_differs(change: dict[str, Any], reason: str) -> None:
    """One earlier request is enough."""
    history = miss_reasons.remember([], _call(), version="1", now_s=1.0)
    assert _reason(_call(**change), history) == reason


def test_a_new_pipeline_version_is_a_reason() -> None:
    """Every answer misses after a release."""
    history = miss_reasons.remember([], _call(), version="1", now_s=1.0)
    assert _reason(_call(version="2"), history, version="2") == "version"


def test_the_most_similar_request_is_compared() -> None:
    """One differing part is nearer than two, regardless of age."""
    history = miss_reasons.remember([], _call(tokens={"color": "#000"}), version="1", now_s=1.0)
    history = miss_reasons.remember(history, _call(content_hash="9", requirements={}), version="1", now_s=2.0)
    assert _reason(_call(), history) == "tokens"


def test_expired_and_evicted_are_distinguished_by_the_ttl() -> None:
    """Without a TTL an answer that was stored before was evicted."""
    history = miss_reasons.remember([], _call(), version="1", now_s=100.0)
    assert _reason(_call(), history, now_s=161.0, ttl_s=60.0) == "expired"
    assert _reason(_call(), history, now_s=130.0, ttl_s=60.0) == "evicted"
    assert _reason(_call(), history) == "evicted"


def test_a_history_is_bounded_and_holds_only_digests() -> None:
    """1000 requests leave 8 fingerprints in less than 2 KiB."""
    history: list[miss_reasons.Fingerprint] = []
    for number in range(1000):
        history = miss_reasons.remember(history, _call(tokens={"secret-name": number}), version="1", now_s=1.0)
    blob = miss_reasons.pack(history)
    assert len(miss_reasons.unpack(blob)) == 8
    assert len(blob) < 2048
    assert b"secret" not in blob


@pytest.mark.parametrize(
    "blob", [None, b"", b"garbage", b"[", b"{}", b"5", b"[1]", b'["abcdefg"]', b"[[1,2,3,4,5,6,7]]", b"[" * 9000]
)
def test_a_damaged_history_is_empty(blob: bytes | None) -> None:
    """So is a forged one."""
    history = miss_reasons.unpack(blob)
    assert _reason(_call(), history) in {"cold", *miss_reasons._PARTS}
    assert all(len(old) == miss_reasons._FIELDS for old in history)


def test_tenants_have_separate_histories() -> None:
    """Their keys differ."""
    assert miss_reasons.history_key(_call(tenant="a")) != miss_reasons.history_key(_call(tenant="b"))
