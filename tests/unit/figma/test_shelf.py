"""What L0 keeps cannot be changed, moved or forged; damage is as if nothing were there."""

import pytest

from forge_otel.figma.sealing import Damaged, seal, unseal
from forge_otel.figma.shelf import EPOCH, Shelf
from forge_otel.stores.memory import MemoryStore

SECRET = b"0123456789abcdef"


@pytest.mark.parametrize("payload", [b"", b"{}", b"x" * 100_000])
def test_what_was_sealed_is_read(payload: bytes) -> None:
    """Small and large, plain and deflated."""
    assert unseal(seal(payload, key="k", secret=SECRET), key="k", secret=SECRET) == payload


def test_every_byte_counts() -> None:
    """A byte flipped anywhere, another key, another secret, a cut: all are noticed."""
    blob = seal(b'{"at":1}', key="k", secret=SECRET)
    for place in range(len(blob)):
        flipped = bytearray(blob)
        flipped[place] ^= 1
        with pytest.raises(Damaged):
            unseal(bytes(flipped), key="k", secret=SECRET)
    for key, secret, found in (("l", SECRET, blob), ("k", b"another secret!!", blob), ("k", SECRET, blob[:-1])):
        with pytest.raises(Damaged):
            unseal(found, key=key, secret=secret)


async def test_damage_is_as_if_nothing_were_there() -> None:
    """Facts and bodies alike; a damaged epoch is replaced, and never equal to the one it was."""
    store = MemoryStore()
    shelf = Shelf(store, secret=SECRET)
    digest = await shelf.keep_body(b"body", ttl_s=60)
    await shelf.note("fact", {"at": 1}, ttl_s=60)
    epoch = await shelf.epoch(f"{EPOCH}x")
    for key in ("fact", f"{EPOCH}x", f"forge:l0:body:{digest}"):
        await store.set(key, b"garbage")
    assert await shelf.facts(["fact"]) == [None]
    assert await shelf.body(digest) is None
    renewed = await shelf.epoch(f"{EPOCH}x")
    assert renewed != epoch
    assert await shelf.epoch(f"{EPOCH}x") == renewed
