"""Embeddings by OpenAI or a service that speaks its protocol: `openai://text-embedding-3-small`.

The client tries nothing again, because the guard around the embedder owns retries and deadlines. Equal texts are asked
for once: their vectors are kept in memory. The key is the `OPENAI_API_KEY` that the client reads.
"""

import hashlib
import math
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from forge_otel.errors import ConfigurationError, needs

with needs("openai"):
    from openai import AsyncOpenAI, OpenAIError

__all__ = ["OpenAIEmbedder", "open_url"]

_DIMENSIONS: Final = 1536
_BATCH: Final = 256
_MAX_CACHED: Final = 10_000
_TIMEOUT_S: Final = 10.0


class OpenAIEmbedder:
    """Asks for embeddings.

    Args:
        client: of the service; closed with the embedder.
        model: its name.
        dimensions: of the vectors.
        max_cached: texts whose vectors are remembered.
    """

    service = "openai:embeddings"
    """The name of the guard that stands around it."""

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
        self._max_cached = max_cached
        self._cache: OrderedDict[bytes, Sequence[float]] = OrderedDict()
        self.dimensions = dimensions
        self.name = f"openai-{model}-{dimensions}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def embed(self, texts: Sequence[str], /) -> list[Sequence[float]]:
        """Return the vector of each text, of length 1; those not known yet are asked for in batches.

        Raises:
            OpenAIError: the service did not answer.
            ValueError: it answered with something else than vectors.
        """
        places = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
        unknown = dict(zip(places, texts, strict=True))
        known: dict[bytes, Sequence[float]] = {}
        for place in list(unknown):
            if place in self._cache:
                self._cache.move_to_end(place)
                known[place] = self._cache[place]
                del unknown[place]
        asked = list(unknown.items())
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            vectors = await self._ask([text for _, text in batch])
            known |= {place: vector for (place, _), vector in zip(batch, vectors, strict=True)}
        for place in unknown:
            self._cache[place] = known[place]
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)
        return [known[place] for place in places]

    async def _ask(self, texts: list[str]) -> list[Sequence[float]]:
        answer = await self._client.embeddings.create(
            model=self._model, input=texts, dimensions=self.dimensions, encoding_format="float"
        )
        found = sorted(answer.data, key=lambda item: item.index)
        if [item.index for item in found] != list(range(len(texts))):
            raise ValueError(f"{len(texts)} texts were sent, and the answer has not one vector for each")
        return [self._unit(item.embedding) for item in found]

    def _unit(self, values: Sequence[float]) -> Sequence[float]:
        length = math.sqrt(math.fsum(value * value for value in values))
        if len(values) != self.dimensions or not length or not math.isfinite(length):
            raise ValueError(f"the answer holds a vector that has not {self.dimensions} finite dimensions")
        return array("f", [value / length for value in values])


def open_url(url: str, **_: Any) -> OpenAIEmbedder:
    """Open `openai://<model>`, with `?dimensions=` and `?base_url=` for another service.

    Raises:
        ConfigurationError: there is no key.
    """
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    try:
        client = AsyncOpenAI(base_url=query.get("base_url"), timeout=_TIMEOUT_S, max_retries=0)
    except OpenAIError as exc:
        raise ConfigurationError(["embedder_url is openai://, and OPENAI_API_KEY is not set"]) from exc
    dimensions = int(query.get("dimensions", _DIMENSIONS))
    return OpenAIEmbedder(client, model=parts.netloc or "text-embedding-3-small", dimensions=dimensions)
