"""Requests, responses and errors of the OpenAI chat completions API.

Source: OpenAI's API reference, "Chat Completions". Parameters without effect here (sampling, metadata, …) are accepted
and ignored; parameters that would change the meaning of the answer (tools, several choices) are rejected.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from componentforge.offline_llm.pacing import CHARS_PER_TOKEN, estimate_tokens
from componentforge.settings import OFFLINE_MODEL

__all__ = ["ApiError", "ChatRequest", "Completion", "parse_request"]

Json = dict[str, Any]
FinishReason = Literal["stop", "length"]


class ApiError(Exception):
    """An error response of the API.

    Args:
        message: text for people.
        status: HTTP status.
        param: name of the invalid parameter, if any.
        code: OpenAI's error code.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error"
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _TextPart(_Open):
    type: Literal["text"]
    text: str


class _Message(_Open):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart]

    @property
    def text(self) -> str:
        """The message as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class _StreamOptions(_Open):
    include_usage: bool = False


class ChatRequest(_Open):
    """The body of ``POST /v1/chat/completions``; other parameters are ignored."""

    model: str
    messages: list[_Message] = Field(min_length=1)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    n: Literal[1] | None = None
    tools: None = None
    functions: None = None

    @property
    def prompt(self) -> str:
        """All messages, joined by newlines."""
        return "\n".join(message.text for message in self.messages)

    @property
    def limit_tokens(self) -> int | None:
        """Maximum length of the answer in tokens, None for no limit."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Return whether the stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse_request(body: bytes) -> ChatRequest:
    """Parse and validate a request body.

    Raises:
        ApiError: the body is malformed or requests an unsupported feature.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_context=False)[0]
        param = ".".join(str(step) for step in fault["loc"]) or None
        location = f"'{param}'" if param else "the body"
        raise ApiError(f"Invalid value for {location}: {fault['msg']}.", param=param) from exc
    if request.stream_options is not None and not request.stream:
        raise ApiError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )
    if request.model != OFFLINE_MODEL:
        message = f"The model '{request.model}' does not exist here; this offline stand-in serves '{OFFLINE_MODEL}'."
        raise ApiError(message, status=404, param="model", code="model_not_found")
    return request


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer and its representation in the API.

    Args:
        id: ``chatcmpl-…``.
        created_s: Unix time in seconds.
        prompt: all messages of the conversation.
        text: the answer before truncation.
        limit_tokens: maximum length of the answer in tokens.
    """

    id: str
    created_s: int
    prompt: str
    text: str
    limit_tokens: int | None = None

    @property
    def content(self) -> str:
        """The answer, truncated to the limit."""
        return self.text if self.limit_tokens is None else self.text[: self.limit_tokens * CHARS_PER_TOKEN]

    @property
    def finish_reason(self) -> FinishReason:
        """``length`` if the answer was truncated, else ``stop``."""
        return "stop" if len(self.content) == len(self.text) else "length"

    @property
    def usage(self) -> Json:
        """Estimated token counts, without cached or reasoning tokens."""
        prompt_tokens, completion_tokens = estimate_tokens(self.prompt), estimate_tokens(self.content)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def whole(self) -> Json:
        """Return the ``chat.completion`` object."""
        message: Json = {"role": "assistant", "content": self.content, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return self._head("chat.completion") | {"choices": [choice], "usage": self.usage}

    def chunk(self, delta: Mapping[str, Any], *, finish_reason: FinishReason | None = None) -> Json:
        """Return one ``chat.completion.chunk`` object."""
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def usage_chunk(self) -> Json:
        """Return the usage chunk, the last chunk of a stream with ``include_usage``."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage}

    def _head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": OFFLINE_MODEL,
            "system_fingerprint": "offline",
            "service_tier": "default",
        }
