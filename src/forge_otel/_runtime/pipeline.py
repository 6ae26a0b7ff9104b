"""Composition of layers around a call, and the decorator that sends a pipeline's calls through them."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, cast, overload

from forge_otel.types import Call, CallNext, GenerationRequest, GenerationResult, Layer, Reply

__all__ = ["Generate", "Pipeline", "PipelineDecorator", "compose"]

P = ParamSpec("P")
Pipeline = Callable[Concatenate[GenerationRequest, P], Coroutine[Any, Any, GenerationResult]]
"""``async def generate(request: GenerationRequest, …) -> GenerationResult``"""

Generate = Callable[..., Awaitable[GenerationResult]]
"""Sends a request through the layers, as `Forge.generate(request, run, pipeline=…)` does."""


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


class PipelineDecorator:
    """Decorates pipelines: `@generation` or `@generation(name="…")`.

    The cache key is made of the request and the pipeline's name and version. Further arguments are passed through and
    are not part of it.

    Args:
        resolve: called for each request; returns `Forge.generate` of an open forge, or None to run the pipeline alone.
    """

    def __init__(self, resolve: Callable[[], Generate | None]) -> None:
        self._resolve = resolve

    @overload
    def __call__(self, pipeline: Pipeline[P], /) -> Pipeline[P]: ...

    @overload
    def __call__(self, /, *, name: str | None = None) -> Callable[[Pipeline[P]], Pipeline[P]]: ...

    def __call__(self, pipeline: Pipeline[P] | None = None, /, *, name: str | None = None) -> Any:
        """Decorate a pipeline, or return the decorator.

        Args:
            pipeline: an async function whose first argument is the `GenerationRequest`.
            name: of the pipeline; the function's name if omitted.
        """
        return functools.partial(self._decorate, name=name) if pipeline is None else self._decorate(pipeline, name=name)

    def _decorate(self, pipeline: Pipeline[P], *, name: str | None) -> Pipeline[P]:
        if not inspect.iscoroutinefunction(pipeline):
            raise TypeError(f"{pipeline!r} cannot be a pipeline; decorate an async function")
        pipeline_name = name or pipeline.__name__

        @functools.wraps(pipeline)
        async def generate(request: GenerationRequest, *args: P.args, **kwargs: P.kwargs) -> GenerationResult:
            send = self._resolve()
            if send is None:
                return await pipeline(request, *args, **kwargs)
            run = functools.partial(pipeline, request, *args, **kwargs)
            return await send(request, run, pipeline=pipeline_name)

        return cast("Pipeline[P]", generate)
