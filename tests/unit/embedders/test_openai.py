"""The embedder of OpenAI, against a server that speaks its protocol."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from componentforge.serving import serve
from forge_otel.embedders.openai import OpenAIEmbedder, open_url
from forge_otel.errors import ConfigurationError
from forge_otel.resilience.guard import Guards


@dataclass
class Model:
    """Answers with vectors that say the length of the text."""

    bodies: list[Any] = field(default_factory=list)
    failures: int = 0
    drops_one: bool = False

    async def answer(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.failures:
            self.failures -= 1
            return JSONResponse({"error": {"message": "busy"}}, 503)
        vectors = [[float(len(text)), 1.0, 0.0] for text in body["input"]][self.drops_one :]
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        # In any order, as the protocol allows.
        return JSONResponse({"object": "list", "model": body["model"], "data": data[::-1], "usage": usage})


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
async def embedder(model: Model, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIEmbedder]:
    """The embedder as its URL opens it."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    app = Starlette(routes=[Route("/v1/embeddings", model.answer, methods=["POST"])])
    async with (
        serve(app) as url,
        open_url(f"openai://text-embedding-3-small?dimensions=3&base_url={url}/v1") as embedder,
    ):
        yield embedder


async def test_texts_are_asked_for_once_and_in_batches(embedder: OpenAIEmbedder, model: Model) -> None:
    """300 texts are two requests, known ones none; vectors come in the order of the texts, of length 1."""
    texts = ["x" * length for length in range(1, 301)]
    vectors = await embedder.embed([*texts, texts[0]])
    assert [len(body["input"]) for body in model.bodies] == [256, 44]
    assert vectors[0] == vectors[-1] == pytest.approx([0.5**0.5, 0.5**0.5, 0])
    assert vectors[299][0] == pytest.approx(300 / (300**2 + 1) ** 0.5)
    await embedder.embed(texts)
    assert len(model.bodies) == 2
    assert model.bodies[0]["dimensions"] == 3


async def test_the_guard_tries_again(embedder: OpenAIEmbedder, model: Model) -> None:
    """The client itself tries once; its guard twice."""
    model.failures = 1
    guard = Guards().get(embedder.service)
    assert len(await guard.call(embedder.embed, ["text"])) == 1
    assert len(model.bodies) == 2


async def test_an_answer_with_too_few_vectors_is_none(embedder: OpenAIEmbedder, model: Model) -> None:
    """A vector is never taken for that of another text, and nothing of it is remembered."""
    model.drops_one = True
    with pytest.raises(ValueError, match="one vector for each"):
        await embedder.embed(["a", "b"])
    model.drops_one = False
    assert len(await embedder.embed(["a", "b"])) == 2


def test_without_a_key_the_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key is a fault of the settings; the name says model and size."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        open_url("openai://text-embedding-3-small")


async def test_by_default_vectors_have_1536_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the model gives them."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    async with open_url("openai://text-embedding-3-small") as embedder:
        assert embedder.name == "openai-text-embedding-3-small-1536"
