"""Embeddings by OpenAI or a service that speaks its protocol: `openai://text-embedding-3-small`.

Vectors are cached in memory, so each text is sent once. The client reads the key from `OPENAI_API_KEY`.
"""

import hashlib
import math
from array import array
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from forge_otel._internal.bounded import BoundedMap
from forge_otel.errors import ConfigurationError, needs
from forge_otel.names import SCOPE, Attr, Operation

with needs("openai"):
    from openai import AsyncOpenAI, OpenAIError

__all__ = ["OpenAIEmbedder", "open_url"]

_DIMENSIONS: Final = 1536
_BATCH_TEXTS: Final = 256
_MAX_CACHED: Final = 10_000
_TIMEOUT_S: Final = 10.0


class OpenAIEmbedder:
    """Embeddings by a remote model.

    Args:
        client: of the service; closed with the embedder.
        model: name of the model.
        dimensions: of the vectors.
        max_cached: number of texts whose vectors are cached.
    """

    service = "openai:embeddings"

    def __init__(
        self,
        client: AsyncOpenAI,
        *,
        model: str = "text-embedding-3-small",
        dimensions: int = _DIMENSIONS,
        max_cached: int = _MAX_CACHED,
    ) -> None:
        self._client = client
        self._model = model
        self.tracer = trace.get_tracer(SCOPE)
        """Starts a span for each request, from which its usage is priced."""
        self._cache: BoundedMap[bytes, Sequence[float]] = BoundedMap(max_cached)
        self.dimensions = dimensions
        self.name = f"openai-{model}-{dimensions}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def embed(self, texts: Sequence[str], /) -> list[Sequence[float]]:
        """Return the unit vector of each text; texts that are not cached are sent in batches.

        Raises:
            OpenAIError: the service did not respond.
            ValueError: the response does not hold one valid vector for each text.
        """
        digests = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
        missing = dict(zip(digests, texts, strict=True))
        vectors: dict[bytes, Sequence[float]] = {}
        for digest in list(missing):
            cached = self._cache.touch(digest)
            if cached is not None:
                vectors[digest] = cached
                del missing[digest]
        pending = list(missing.items())
        for start in range(0, len(pending), _BATCH_TEXTS):
            batch = pending[start : start + _BATCH_TEXTS]
            received = await self._request([text for _, text in batch])
            vectors |= {digest: vector for (digest, _), vector in zip(batch, received, strict=True)}
        # Cached only now, when all batches have succeeded.
        for digest in missing:
            self._cache[digest] = vectors[digest]
        return [vectors[digest] for digest in digests]

    async def _request(self, texts: list[str]) -> list[Sequence[float]]:
        attributes = {
            Attr.GEN_AI_OPERATION: Operation.EMBEDDINGS,
            Attr.GEN_AI_PROVIDER: "openai",
            Attr.GEN_AI_REQUEST_MODEL: self._model,
        }
        span = self.tracer.start_span(
            f"{Operation.EMBEDDINGS} {self._model}", kind=SpanKind.CLIENT, attributes=attributes
        )
        # Without the exception's text, which may quote the request.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                response = await self._client.embeddings.create(
                    model=self._model, input=texts, dimensions=self.dimensions, encoding_format="float"
                )
            except BaseException as exc:
                span.set_attribute(Attr.ERROR_TYPE, type(exc).__name__)
                span.set_status(StatusCode.ERROR)
                raise
            # Services that speak the protocol may leave the usage out.
            if response.usage is not None:
                span.set_attribute(Attr.GEN_AI_INPUT_TOKENS, response.usage.prompt_tokens)
        found = sorted(response.data, key=lambda item: item.index)
        if [item.index for item in found] != list(range(len(texts))):
            raise ValueError(f"the response does not hold one vector for each of {len(texts)} texts")
        return [self._unit(item.embedding) for item in found]

    def _unit(self, values: Sequence[float]) -> Sequence[float]:
        length = math.sqrt(math.fsum(value * value for value in values))
        if len(values) != self.dimensions or not length or not math.isfinite(length):
            raise ValueError(f"the response holds a vector without {self.dimensions} finite dimensions")
        return array("f", [value / length for value in values])


def open_url(url: str, **_: Any) -> OpenAIEmbedder:
    """Open `openai://<model>`, with `?dimensions=` and `?base_url=` for another service.

    Raises:
        ConfigurationError: `OPENAI_API_KEY` is not set.
    """
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    try:
        # Without retries: the guard around the embedder retries, and its deadline covers all attempts.
        client = AsyncOpenAI(base_url=query.get("base_url"), timeout=_TIMEOUT_S, max_retries=0)
    except OpenAIError as exc:
        raise ConfigurationError(["embedder_url is openai://, but OPENAI_API_KEY is not set"]) from exc
    dimensions = int(query.get("dimensions", _DIMENSIONS))
    return OpenAIEmbedder(client, model=parts.netloc or "text-embedding-3-small", dimensions=dimensions)
