"""Freezing of long-lived objects."""

import gc

from starlette.types import Message, Receive, Scope, Send
from tests.unit.web.support import InMemoryForge

from forge_otel.web.gc_freeze import GcFreeze
from forge_otel.web.middleware import ForgeMiddleware


async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without lifespan support."""


async def frozen_after_startup(forge: InMemoryForge) -> int:
    """Run a lifespan and return how many more objects are frozen when startup is complete."""
    before = gc.get_freeze_count()
    frozen = 0
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        nonlocal frozen
        if message["type"] == "lifespan.startup.complete":
            frozen = gc.get_freeze_count() - before

    app = ForgeMiddleware(without_lifespan, forge=forge)
    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return frozen


async def test_freeze_heap() -> None:
    """With `freeze_heap` the heap is frozen from startup to shutdown, otherwise never."""
    before = gc.get_freeze_count()
    assert await frozen_after_startup(InMemoryForge()) == 0
    assert await frozen_after_startup(InMemoryForge(freeze_heap=True)) > 10_000
    assert gc.get_freeze_count() == before


async def test_objects_frozen_by_the_application_stay_frozen() -> None:
    """An application that froze objects itself finds them frozen after shutdown."""
    gc.freeze()
    try:
        freeze = GcFreeze()
        freeze.freeze()
        freeze.unfreeze()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
