"""The language model that the agents talk to: the real ``openai`` client, and the name of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from componentforge.settings import ServiceSettings
from forge_otel.errors import ForgeError, ServiceUnavailable

__all__ = ["LanguageModel", "Message", "UnusableAnswer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class UnusableAnswer(ForgeError):
    """The model answered twice with something that cannot be used."""

    status = 502
    code = "unusable_answer"
    title = "Unusable model answer"


class LanguageModel:
    """Asks one model, for an answer at once or piece by piece; used as ``async with``."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.name = settings.openai_model
        self.is_offline = settings.is_offline
        self._client = AsyncOpenAI(
            base_url=settings.openai_url, api_key=settings.openai_key, timeout=settings.timeout_s, max_retries=1
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._client.close()

    async def ask_json(self, *messages: Message) -> str:
        """Return the answer as the text of a JSON object.

        Raises:
            ServiceUnavailable: the model cannot be reached or refuses.
        """
        try:
            completion = await self._client.chat.completions.create(
                model=self.name,
                messages=[_param(message) for message in messages],
                response_format={"type": "json_object"},
            )
        except openai.OpenAIError as exc:
            raise _unavailable(exc) from exc
        return completion.choices[0].message.content or ""

    async def ask_streaming(self, *messages: Message) -> str:
        """Return the answer, received piece by piece, so that a silent connection is noticed within the timeout.

        Raises:
            ServiceUnavailable: the model cannot be reached or refuses.
        """
        pieces: list[str] = []
        try:
            # `async with` closes the connection also when the task is cancelled in the middle of the answer.
            async with await self._client.chat.completions.create(
                model=self.name,
                messages=[_param(message) for message in messages],
                stream=True,
                stream_options={"include_usage": True},
            ) as stream:
                async for chunk in stream:
                    pieces += [choice.delta.content or "" for choice in chunk.choices]
        except openai.OpenAIError as exc:
            raise _unavailable(exc) from exc
        return "".join(pieces)


def _param(message: Message) -> ChatCompletionMessageParam:
    params: Mapping[str, ChatCompletionMessageParam] = {
        "system": {"role": "system", "content": message.content},
        "user": {"role": "user", "content": message.content},
        "assistant": {"role": "assistant", "content": message.content},
    }
    return params[message.role]


def _unavailable(exc: openai.OpenAIError) -> ServiceUnavailable:
    status = f" with status {exc.status_code}" if isinstance(exc, openai.APIStatusError) else ""
    return ServiceUnavailable(f"the language model failed{status} ({type(exc).__name__}); try again later")
