"""Calls to the language model through the ``openai`` client, guarded by forge-otel."""

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
    """The model refused the request, or its answer was invalid twice."""

    status = 502
    code = "unusable_answer"
    title = "Unusable model answer"


class LanguageModel:
    """Client of one model, with complete and streamed answers; an async context manager.

    While the model is unavailable, calls go to the fallback model; without one the caller gets a 503 with
    ``Retry-After``.

    Args:
        settings: address, key and names of the models.
        guard: retries, time limits and circuit breaker around every call.
    """

    def __init__(self, settings: ServiceSettings, *, guard: Guard | None = None) -> None:
        self.name = settings.openai_model
        self.is_offline = settings.is_offline
        self._fallback_model = settings.openai_fallback_model
        self._guard = guard or Guard("openai")
        # max_retries=0: the guard retries, and both would multiply.
        self._client = AsyncOpenAI(
            base_url=settings.openai_url, api_key=settings.openai_key, timeout=settings.timeout_s, max_retries=0
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._client.close()

    async def ask_json(self, *messages: Message) -> str:
        """Return the answer, the text of a JSON object.

        Raises:
            ServiceUnavailable: no model is available.
            UnusableAnswer: the model refuses the request.
        """
        guard = self._guard.using(fallbacks=self._fallbacks(self._complete))
        try:
            return await guard.call(self._complete, self.name, messages)
        except openai.OpenAIError as exc:
            raise _to_forge_error(exc) from exc

    async def ask_streaming(self, *messages: Message) -> str:
        """Return the complete text of a streamed answer.

        Raises:
            ServiceUnavailable: no model is available, or the stream broke off.
            UnusableAnswer: the model refuses the request.
        """
        # Streamed, so that the timeout applies to each chunk and detects a stalled connection early.
        guard = self._guard.using(fallbacks=self._fallbacks(self._stream))
        try:
            async with aclosing(guard.stream(self._stream, self.name, messages)) as chunks:
                return "".join([chunk async for chunk in chunks])
        except openai.OpenAIError as exc:
            raise _to_forge_error(exc) from exc

    def _fallbacks(self, ask: Callable[[str, Sequence[Message]], Any]) -> list[Fallback]:
        last = unavailable("openai")
        model = self._fallback_model
        if model is None:
            return [last]
        return [Fallback(f"openai:{model}", lambda _exc, _model, messages: ask(model, messages)), last]

    async def _complete(self, model: str, messages: Sequence[Message]) -> str:
        completion = await self._client.chat.completions.create(
            model=model,
            messages=[_param(message) for message in messages],
            response_format={"type": "json_object"},
        )
        return completion.choices[0].message.content or ""

    async def _stream(self, model: str, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        # Leaving the block ends the instrumentation's span, also when the task is cancelled.
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


def _to_forge_error(exc: openai.OpenAIError) -> ForgeError:
    """Return the ForgeError for a refusal or a broken stream; neither is retried."""
    if is_outage(exc, classify(exc)):
        return ServiceUnavailable(
            f"the stream of the language model broke off ({type(exc).__name__}); try again",
            retry_after_s=_RETRY_AFTER_S,
        )
    status = f" with status {exc.status_code}" if isinstance(exc, openai.APIStatusError) else ""
    return UnusableAnswer(f"the language model refused the request{status} ({type(exc).__name__})")
