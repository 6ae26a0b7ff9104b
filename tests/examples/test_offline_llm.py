"""The offline model implements the OpenAI API; the tests use the real client over HTTP."""

import json
import math
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from tests.examples.samples import brief_for, sample

from componentforge.offline_llm.pacing import estimate_tokens, pace_for
from componentforge.offline_llm.server import create_offline_llm
from componentforge.schemas import Requirements, RequirementsBrief, context_block, fenced_files

BUTTON = brief_for(sample("Button/Action"))
MODEL = "forge-offline-1"


def asking(text: str) -> list[ChatCompletionMessageParam]:
    """Return a conversation of one message."""
    return [{"role": "user", "content": text}]


def client(llm_url: str) -> AsyncOpenAI:
    """Return the real client, without retries."""
    return AsyncOpenAI(base_url=f"{llm_url}/v1", api_key="offline", max_retries=0)


async def test_a_plain_answer_has_usage(llm_url: str) -> None:
    """The answer depends on the prompt, is labelled as offline and has consistent token counts."""
    question = context_block(
        RequirementsBrief(component_type="button", component_name="ActionButton", blueprint=BUTTON.blueprint)
    )
    async with client(llm_url) as openai_client:
        completion = await openai_client.chat.completions.create(model=MODEL, messages=asking(question))
    answer = completion.choices[0].message.content or ""
    assert Requirements.model_validate_json(answer) == BUTTON.requirements
    assert (completion.model, completion.system_fingerprint) == (MODEL, "offline")
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == math.ceil(len(question) / 4)
    assert completion.usage.completion_tokens == math.ceil(len(answer) / 4)
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


async def test_a_stream_has_the_same_answer_in_chunks(llm_url: str) -> None:
    """The chunks join to the plain answer, and the last chunk has the usage."""
    async with client(llm_url) as openai_client:
        plain = await openai_client.chat.completions.create(model=MODEL, messages=asking(context_block(BUTTON)))
        stream = await openai_client.chat.completions.create(
            model=MODEL,
            messages=asking(context_block(BUTTON)),
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert set(fenced_files(text)) == {"component.tsx", "stories.tsx"}
    assert len(chunks) > 50
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage == plain.usage
    assert chunks[-1].choices == []
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_a_stream_without_include_usage(llm_url: str) -> None:
    """Without `include_usage` no chunk has a usage, and the stream ends with the sentinel."""
    body = {"model": MODEL, "messages": asking("hello"), "stream": True}
    async with httpx.AsyncClient() as http:
        response = await http.post(
            f"{llm_url}/v1/chat/completions", json=body, headers={"Authorization": "Bearer offline"}
        )
    events = response.text.strip().split("\n\n")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert events[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events[:-1])


async def test_a_prompt_without_context_gets_an_explanation(llm_url: str) -> None:
    """The stand-in identifies itself instead of inventing an answer."""
    async with client(llm_url) as openai_client:
        completion = await openai_client.chat.completions.create(model=MODEL, messages=asking("Write a poem."))
    assert "not a language model" in (completion.choices[0].message.content or "")


async def test_an_answer_is_truncated_at_its_limit(llm_url: str) -> None:
    """An answer over the token limit is truncated, with `length` as finish reason."""
    async with client(llm_url) as openai_client:
        completion = await openai_client.chat.completions.create(
            model=MODEL, messages=asking("hello"), max_completion_tokens=5
        )
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5


async def test_models_are_listed(llm_url: str) -> None:
    """Only one model exists."""
    async with client(llm_url) as openai_client:
        models = [model.id async for model in openai_client.models.list()]
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await openai_client.models.retrieve("gpt-4.1")
    assert models == [MODEL]


GOOD: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hello"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"model": 3}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": 9}, "temperature"),
        ({"n": 2}, "n"),
        ({"tools": [{}]}, "tools"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_invalid_requests_are_rejected(llm_url: str, change: dict[str, Any], param: str) -> None:
    """The error has OpenAI's format and names the parameter."""
    async with httpx.AsyncClient(headers={"Authorization": "Bearer offline"}) as http:
        response = await http.post(f"{llm_url}/v1/chat/completions", json=GOOD | change)
    error = response.json()["error"]
    assert response.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"].startswith(param)


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"{", 400), (b"[]", 400), (b"\xff", 400), (b" " * (8 * 1024 * 1024 + 1), 413)]
)
async def test_malformed_bodies_are_rejected(llm_url: str, body: bytes, status: int) -> None:
    """Malformed and oversized bodies get an error, and the server continues."""
    async with httpx.AsyncClient(headers={"Authorization": "Bearer offline"}) as http:
        response = await http.post(f"{llm_url}/v1/chat/completions", content=body)
        again = await http.post(f"{llm_url}/v1/chat/completions", json=GOOD)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert again.status_code == 200


async def test_unknown_models_keys_and_paths_are_rejected(llm_url: str) -> None:
    """An unknown model is 404, a missing key 401 and an unknown path 404, each in OpenAI's format."""
    key = {"Authorization": "Bearer offline"}
    async with httpx.AsyncClient(base_url=llm_url) as http:
        model = await http.post("/v1/chat/completions", json=GOOD | {"model": "gpt-4.1"}, headers=key)
        no_key = await http.post("/v1/chat/completions", json=GOOD)
        path = await http.get("/v1/unknown", headers=key)
    assert (model.status_code, model.json()["error"]["code"]) == (404, "model_not_found")
    assert (no_key.status_code, no_key.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (path.status_code, path.json()["error"]["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize("time_scale", [0, -1, math.nan])
def test_a_time_scale_must_be_positive(time_scale: float) -> None:
    """Zero and negative time scales are rejected."""
    with pytest.raises(ValueError, match="positive"):
        create_offline_llm(time_scale=time_scale)


def test_pace() -> None:
    """2,000 tokens take 20 to 60 s at scale 1 and a fiftieth of it at 50, always the same for one prompt."""
    for number in range(100):
        real, fast = pace_for(f"{number}", time_scale=1), pace_for(f"{number}", time_scale=50)
        assert 20 < real.due_s(2000) < 60
        assert fast.due_s(2000) == pytest.approx(real.due_s(2000) / 50)
        assert real == pace_for(f"{number}", time_scale=1)
        assert all(earlier < later for earlier, later in pairwise(real.due_s(tokens) for tokens in (0, 1, 500)))


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2)])
def test_tokens_are_estimated_from_characters(text: str, tokens: int) -> None:
    """A token has four characters, rounded up."""
    assert estimate_tokens(text) == tokens
