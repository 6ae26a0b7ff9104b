"""The OpenAI embedder, against a server with its protocol."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from openai import InternalServerError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.unit.telemetry.recorder import Recorder

from componentforge.serving import serve
from forge_otel.context import Generation, current_generation
from forge_otel.embedders.openai import OpenAIEmbedder, open_url
from forge_otel.errors import ConfigurationError
from forge_otel.names import Attr
from forge_otel.resilience.guard import Guards


@dataclass
class Model:
    """Responds with vectors made of the length of the text."""

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
def recorder() -> Iterator[Recorder]:
    """A recorder with default settings."""
    made = Recorder()
    yield made
    made.close()


@pytest.fixture
def generation() -> Iterator[Generation]:
    """A running generation."""
    running = Generation(id="g", started_at=datetime.now(UTC), started_s=0.0)
    token = current_generation.set(running)
    yield running
    current_generation.reset(token)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
async def embedder(model: Model, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIEmbedder]:
    """An embedder that was opened by its URL."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    app = Starlette(routes=[Route("/v1/embeddings", model.answer, methods=["POST"])])
    async with (
        serve(app) as url,
        open_url(f"openai://text-embedding-3-small?dimensions=3&base_url={url}/v1") as embedder,
    ):
        yield embedder


async def test_texts_are_sent_once_and_in_batches(embedder: OpenAIEmbedder, model: Model) -> None:
    """300 texts are two requests, cached ones none; vectors have length 1 and the order of the texts."""
    texts = ["x" * length for length in range(1, 301)]
    vectors = await embedder.embed([*texts, texts[0]])
    assert [len(body["input"]) for body in model.bodies] == [256, 44]
    assert vectors[0] == vectors[-1] == pytest.approx([0.5**0.5, 0.5**0.5, 0])
    assert vectors[299][0] == pytest.approx(300 / (300**2 + 1) ** 0.5)
    await embedder.embed(texts)
    assert len(model.bodies) == 2
    assert model.bodies[0]["dimensions"] == 3


async def test_each_request_is_a_priced_model_call(
    embedder: OpenAIEmbedder, model: Model, recorder: Recorder, generation: Generation
) -> None:
    """Cached texts cost nothing."""
    embedder.tracer = recorder.telemetry.tracer
    await embedder.embed(["a", "b"])
    await embedder.embed(["a"])
    (cost,) = generation.costs
    assert (cost.api, cost.model, cost.usage.input_tokens) == ("openai", "text-embedding-3-small", 1)
    assert cost.amount_usd == Decimal("0.00000002")


async def test_a_failed_request_costs_nothing_and_shows_no_text(
    embedder: OpenAIEmbedder, model: Model, recorder: Recorder, generation: Generation
) -> None:
    """Its span names the type of the error."""
    embedder.tracer = recorder.telemetry.tracer
    model.failures = 1
    with pytest.raises(InternalServerError):
        await embedder.embed(["secret"])
    span = recorder.span("embeddings text-embedding-3-small")
    assert (span.attributes or {})[Attr.ERROR_TYPE] == "InternalServerError"
    assert (generation.costs, span.events, "busy" in str(span.to_json())) == ([], (), False)


async def test_only_the_guard_retries(embedder: OpenAIEmbedder, model: Model) -> None:
    """The client makes one attempt, its guard a second one."""
    model.failures = 1
    guard = Guards().get(embedder.service)
    assert len(await guard.call(embedder.embed, ["text"])) == 1
    assert len(model.bodies) == 2


async def test_a_response_with_too_few_vectors_is_an_error(embedder: OpenAIEmbedder, model: Model) -> None:
    """No vector is assigned to another text, and none is cached."""
    model.drops_one = True
    with pytest.raises(ValueError, match="one vector for each"):
        await embedder.embed(["a", "b"])
    model.drops_one = False
    assert len(await embedder.embed(["a", "b"])) == 2


def test_a_missing_key_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key, the name has the model and the dimensions."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        open_url("openai://text-embedding-3-small")


async def test_by_default_vectors_have_1536_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native size of the model."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    async with open_url("openai://text-embedding-3-small") as embedder:
        assert embedder.name == "openai-text-embedding-3-small-1536"
