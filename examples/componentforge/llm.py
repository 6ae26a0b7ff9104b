"""The language model that the agents talk to: the real ``openai`` client, and the name of the model."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Self

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from componentforge.settings import ServiceSettings
from forge_otel.errors import ForgeError, ServiceUnavailable
from forge_otel.resilience.fallback import Fallback, is_outage, unavailable
from forge_otel.resilience.guard import Guard
from forge_otel.resilience.retry import classify

__all__ = ["LanguageModel", "Message", "UnusableAnswer"]

_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class UnusableAnswer(ForgeError):
    """The model refused, or answered twice with something that cannot be used."""

    status = 502
    code = "unusable_answer"
    title = "Unusable model answer"


class LanguageModel:
    """Asks one model, for an answer at once or piece by piece; used as ``async with``.

    When the model does not answer, the configured other model is asked, else the caller gets a 503 that says when to
    try again.

    Args:
        settings: where the model is.
        guard: stands around every call; retries and time limits are its business, so the client has none of its own.
    """

    def __init__(self, settings: ServiceSettings, *, guard: Guard | None = None) -> None:
        self.name = settings.openai_model
        self.is_offline = settings.is_offline
        self._other = settings.openai_fallback_model
        self._guard = guard or Guard("openai")
        self._client = AsyncOpenAI(
            base_url=settings.openai_url, api_key=settings.openai_key, timeout=settings.timeout_s, max_retries=0
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._client.close()

    async def ask_json(self, *messages: Message) -> str:
        """Return the answer as the text of a JSON object.

        Raises:
            ServiceUnavailable: no model can be reached.
            UnusableAnswer: the model refuses the question.
        """
        guard = self._guard.using(fallbacks=self._fallbacks(self._complete))
        try:
            return await guard.call(self._complete, self.name, messages)
        except openai.OpenAIError as exc:
            raise _refused(exc) from exc

    async def ask_streaming(self, *messages: Message) -> str:
        """Return the answer, received piece by piece, so that a silent connection is noticed within the timeout.

        Raises:
            ServiceUnavailable: no model can be reached, or the stream broke.
            UnusableAnswer: the model refuses the question.
        """
        guard = self._guard.using(fallbacks=self._fallbacks(self._pieces))
        try:
            async with aclosing(guard.stream(self._pieces, self.name, messages)) as pieces:
                return "".join([piece async for piece in pieces])
        except openai.OpenAIError as exc:
            raise _refused(exc) from exc

    def _fallbacks(self, ask: Callable[[str, Sequence[Message]], Any]) -> list[Fallback]:
        last = unavailable("openai")
        other = self._other
        if other is None:
            return [last]
        return [Fallback(f"openai:{other}", lambda _exc, _model, messages: ask(other, messages)), last]

    async def _complete(self, model: str, messages: Sequence[Message]) -> str:
        completion = await self._client.chat.completions.create(
            model=model,
            messages=[_param(message) for message in messages],
            response_format={"type": "json_object"},
        )
        return completion.choices[0].message.content or ""

    async def _pieces(self, model: str, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        # `async with` ends the instrumentation's span also when the task is cancelled in the middle.
        async with await self._client.chat.completions.create(
            model=model,
            messages=[_param(message) for message in messages],
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    yield choice.delta.content or ""


def _param(message: Message) -> ChatCompletionMessageParam:
    params: Mapping[str, ChatCompletionMessageParam] = {
        "system": {"role": "system", "content": message.content},
        "user": {"role": "user", "content": message.content},
        "assistant": {"role": "assistant", "content": message.content},
    }
    return params[message.role]


def _refused(exc: openai.OpenAIError) -> ForgeError:
    """Return what the caller gets for an error that is not to be tried again: a refusal, or a stream that broke."""
    if is_outage(exc, classify(exc)):
        return ServiceUnavailable(
            f"the answer of the language model broke off ({type(exc).__name__}); try again",
            retry_after_s=_RETRY_AFTER_S,
        )
    status = f" with status {exc.status_code}" if isinstance(exc, openai.APIStatusError) else ""
    return UnusableAnswer(f"the language model refused the question{status} ({type(exc).__name__})")
