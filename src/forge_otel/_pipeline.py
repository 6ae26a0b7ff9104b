"""Layers around a call."""

from collections.abc import Sequence

from forge_otel.types import Call, CallNext, Layer, Reply

__all__ = ["compose"]


def compose(layers: Sequence[Layer], terminal: CallNext) -> CallNext:
    """Put `layers` around `terminal`; the first layer is the outermost."""
    call_next = terminal
    for layer in reversed(layers):
        call_next = _around(layer, call_next)
    return call_next


def _around(layer: Layer, call_next: CallNext) -> CallNext:
    async def call_layer(call: Call) -> Reply:
        return await layer(call, call_next)

    return call_layer
