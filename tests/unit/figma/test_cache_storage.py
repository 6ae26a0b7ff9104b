"""What L0 keeps cannot be changed, moved or forged; damage is as if nothing were there."""

from forge_otel.figma.cache_storage import EPOCH, FigmaCacheStorage
from forge_otel.stores.memory import MemoryStore

SECRET = b"0123456789abcdef"


async def test_damage_is_as_if_nothing_were_there() -> None:
    """Facts and bodies alike; a damaged epoch is replaced, and never equal to the one it was."""
    store = MemoryStore()
    shelf = FigmaCacheStorage(store, secret=SECRET)
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
