"""Layers around a call, and the decorator that sends a pipeline's calls through them."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, cast, overload

from forge_otel.types import Call, CallNext, GenerationRequest, GenerationResult, Layer, Reply

__all__ = ["Generates", "Pipeline", "PipelineDecorator", "compose"]

P = ParamSpec("P")
Pipeline = Callable[Concatenate[GenerationRequest, P], Coroutine[Any, Any, GenerationResult]]
"""``async def generate(request: GenerationRequest, …) -> GenerationResult``"""


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


class Generates(Protocol):
    """Answers requests through its layers; a Forge does."""

    async def generate(
        self, request: GenerationRequest, run: Callable[[], Awaitable[GenerationResult]], *, pipeline: str
    ) -> GenerationResult:
        """Answer `request`, by `run` if nothing else answers."""
        ...


class PipelineDecorator:
    """Decorates pipelines: `@generation` or `@generation(name="…")`.

    The request decides the cache key, together with the pipeline's name and version; further arguments are handed
    through and are not part of it.

    Args:
        resolve: asked at each call for what answers it; without an answer the pipeline simply runs.
    """

    def __init__(self, resolve: Callable[[], Generates | None]) -> None:
        self._resolve = resolve

    @overload
    def __call__(self, pipeline: Pipeline[P], /) -> Pipeline[P]: ...

    @overload
    def __call__(self, /, *, name: str | None = None) -> Callable[[Pipeline[P]], Pipeline[P]]: ...

    def __call__(self, pipeline: Pipeline[P] | None = None, /, *, name: str | None = None) -> Any:
        """Decorate a pipeline, or return the decorator.

        Args:
            pipeline: an async function whose first argument is the `GenerationRequest`.
            name: of the pipeline; the function's name where it is left out.
        """
        return functools.partial(self._decorate, name=name) if pipeline is None else self._decorate(pipeline, name=name)

    def _decorate(self, pipeline: Pipeline[P], *, name: str | None) -> Pipeline[P]:
        if not inspect.iscoroutinefunction(pipeline):
            raise TypeError(f"{pipeline!r} cannot be a pipeline; decorate an async function")
        pipeline_name = name or pipeline.__name__

        @functools.wraps(pipeline)
        async def generate(request: GenerationRequest, *args: P.args, **kwargs: P.kwargs) -> GenerationResult:
            answers = self._resolve()
            if answers is None:
                return await pipeline(request, *args, **kwargs)
            run = functools.partial(pipeline, request, *args, **kwargs)
            return await answers.generate(request, run, pipeline=pipeline_name)

        return cast("Pipeline[P]", generate)
