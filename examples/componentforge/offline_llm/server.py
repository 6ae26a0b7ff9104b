"""HTTP server of the offline model: an OpenAI-compatible API on Starlette."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from componentforge.offline_llm.model import answer
from componentforge.offline_llm.pacing import CHARS_PER_TOKEN, Pace, estimate_tokens, pace_for
from componentforge.offline_llm.wire import ApiError, Completion, parse_request
from componentforge.settings import OFFLINE_MODEL

__all__ = ["DEFAULT_TIME_SCALE", "create_offline_llm"]

DEFAULT_TIME_SCALE = 50.0
"""Speed-up of the offline model compared with a real one."""

_MAX_BODY_BYTES = 8 * 1024 * 1024
DEFAULT_CHUNK_TOKENS = 16
"""Tokens per chunk of a streamed answer."""

_RELEASED_S = 1_780_000_000


def create_offline_llm(
    *, time_scale: float = DEFAULT_TIME_SCALE, chunk_tokens: int = DEFAULT_CHUNK_TOKENS
) -> Starlette:
    """Build the server.

    Args:
        time_scale: speed-up compared with a real model; infinity answers without delay.
        chunk_tokens: tokens per chunk of a streamed answer; large chunks save work in the client.

    Raises:
        ValueError: `time_scale` is not positive.
    """
    if not time_scale > 0:
        raise ValueError("time_scale must be positive; 1 is the speed of a real model")

    async def chat(request: Request) -> Response:
        _check_key(request)
        body = parse_request(await _body(request))
        # In a thread: writing a component takes milliseconds of computation, which would delay other streams.
        text = await asyncio.to_thread(answer, body.prompt)
        completion = Completion(
            id=f"chatcmpl-{uuid4().hex}",
            created_s=int(time.time()),
            prompt=body.prompt,
            text=text,
            limit_tokens=body.limit_tokens,
        )
        pace = pace_for(body.prompt, time_scale=time_scale)
        if body.stream:
            events = _events(completion, pace, chunk_tokens=chunk_tokens, with_usage=body.wants_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        await asyncio.sleep(pace.due_s(estimate_tokens(completion.content)))
        return JSONResponse(completion.whole())

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/v1/models/{model}", _model),
        ],
        exception_handlers={ApiError: _error_response, HTTPException: _no_route},
    )


def _check_key(request: Request) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        message = "You didn't provide an API key; the offline model accepts any key."
        raise ApiError(message, status=401, code="invalid_api_key")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BODY_BYTES:
            raise ApiError(f"The body is larger than {_MAX_BODY_BYTES} bytes.", status=413)
    return bytes(body)


async def _events(completion: Completion, pace: Pace, *, chunk_tokens: int, with_usage: bool) -> AsyncIterator[str]:
    """Yield the server-sent events of a stream, delayed like those of a real model."""
    started_s = time.monotonic()
    # As in the real API: with `include_usage`, every chunk except the last has "usage": null.
    extra = {"usage": None} if with_usage else {}
    yield _event(completion.chunk({"role": "assistant", "content": "", "refusal": None}) | extra)
    content = completion.content
    for start_tokens in range(0, estimate_tokens(content), chunk_tokens):
        start = start_tokens * CHARS_PER_TOKEN
        piece = content[start : start + chunk_tokens * CHARS_PER_TOKEN]
        due_s = started_s + pace.due_s(start_tokens + estimate_tokens(piece))
        await asyncio.sleep(max(due_s - time.monotonic(), 0))
        yield _event(completion.chunk({"content": piece}) | extra)
    yield _event(completion.chunk({}, finish_reason=completion.finish_reason) | extra)
    if with_usage:
        yield _event(completion.usage_chunk())
    yield "data: [DONE]\n\n"


def _event(data: Any) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"


def _card(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": _RELEASED_S, "owned_by": "componentforge-offline"}


async def _models(request: Request) -> Response:
    _check_key(request)
    return JSONResponse({"object": "list", "data": [_card(OFFLINE_MODEL)]})


async def _model(request: Request) -> Response:
    _check_key(request)
    name = request.path_params["model"]
    if name != OFFLINE_MODEL:
        message = f"The model '{name}' does not exist."
        raise ApiError(message, status=404, param="model", code="model_not_found")
    return JSONResponse(_card(name))


async def _error_response(_request: Request, exc: Exception) -> Response:
    if not isinstance(exc, ApiError):
        raise exc
    return JSONResponse(exc.body, status_code=exc.status)


async def _no_route(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    error = ApiError(f"Invalid URL ({request.method} {request.url.path})", status=exc.status_code)
    return JSONResponse(error.body, status_code=exc.status_code, headers=exc.headers)
