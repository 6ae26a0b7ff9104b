"""Values of the Figma cache are authenticated."""

from forge_otel.figma.cache_storage import EPOCH_PREFIX, FigmaCacheStorage
from forge_otel.stores.memory import MemoryStore

SECRET = b"0123456789abcdef"


async def test_damaged_values_count_as_missing() -> None:
    """Facts and bodies; a damaged epoch is replaced by a new one."""
    store = MemoryStore()
    storage = FigmaCacheStorage(store, secret=SECRET)
    digest = await storage.write_body(b"body", ttl_s=60)
    await storage.write_fact("fact", {"at": 1}, ttl_s=60)
    epoch = await storage.epoch(f"{EPOCH_PREFIX}x")
    for key in ("fact", f"{EPOCH_PREFIX}x", f"forge:l0:body:{digest}"):
        await store.set(key, b"garbage")
    assert await storage.read_facts(["fact"]) == [None]
    assert await storage.read_body(digest) is None
    renewed = await storage.epoch(f"{EPOCH_PREFIX}x")
    assert renewed != epoch
    assert await storage.epoch(f"{EPOCH_PREFIX}x") == renewed
