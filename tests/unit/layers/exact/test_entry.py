"""An entry is decoded exactly as it was sealed, or rejected."""

import os
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_otel._internal.frames import DamagedFrame
from forge_otel.layers.exact.entry import seal, unseal
from forge_otel.types import GenerationResult, Reply

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
RESULT = GenerationResult(
    code="export {}",
    artifacts={"component.tsx": "ä" * 50, "shot.png": bytes(range(256))},
    report_html="<p>",
    metadata={"quality_score": 97.5},
)
REPLY = Reply(result=RESULT, origin_id="origin", cost_usd=Decimal("0.4200000001"))


def _seal(reply: Reply = REPLY, *, secret: bytes = b"secret") -> bytes:
    return seal(reply, key="k", tag_versions={"all": "e1"}, created_ms=1_700_000_000_123, secret=secret)


def test_a_sealed_entry_is_decoded() -> None:
    """Text, bytes, exact costs and tag versions are unchanged."""
    entry = unseal(_seal(), key="k", secret=b"secret")
    assert entry.result == RESULT
    assert (entry.cost_usd, entry.origin_id, entry.tag_versions) == (Decimal("0.4200000001"), "origin", {"all": "e1"})
    assert entry.created_ms == 1_700_000_000_123


@given(TEXT, st.dictionaries(TEXT, TEXT | st.binary()))
def test_any_content_is_preserved(code: str, artifacts: dict[str, str | bytes]) -> None:
    """Every text and every byte string."""
    result = GenerationResult(code=code, artifacts=artifacts)
    assert unseal(_seal(Reply(result=result)), key="k", secret=b"secret").result == result


def test_a_large_answer_is_compressed() -> None:
    """Repetitive text takes less than a tenth of its size."""
    reply = Reply(result=GenerationResult(code="const a = 1;\n" * 10_000))
    blob = _seal(reply)
    assert len(blob) < 10_000
    assert unseal(blob, key="k", secret=b"secret").result == reply.result


def test_a_flipped_bit_is_detected() -> None:
    """At every byte."""
    blob = _seal()
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(DamagedFrame):
            unseal(bytes(damaged), key="k", secret=b"secret")


@pytest.mark.parametrize("length", [0, 3, 4, 35, 36, 44, 45, 60])
def test_a_truncated_entry_is_detected(length: int) -> None:
    """At every part of the frame."""
    with pytest.raises(DamagedFrame):
        unseal(_seal()[:length], key="k", secret=b"secret")


def test_another_key_or_secret_is_detected() -> None:
    """An entry cannot be copied or forged."""
    with pytest.raises(DamagedFrame):
        unseal(_seal(), key="other", secret=b"secret")
    with pytest.raises(DamagedFrame):
        unseal(_seal(secret=b"forged"), key="k", secret=b"secret")


def test_random_bytes_are_rejected() -> None:
    """Whatever their length."""
    for size in (1, 50, 5_000):
        with pytest.raises(DamagedFrame):
            unseal(b"FGE1" + os.urandom(size), key="k", secret=b"secret")
