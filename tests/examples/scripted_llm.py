"""An OpenAI-compatible server with scripted answers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from componentforge.llm import LanguageModel
from componentforge.offline_llm.wire import Completion, parse_request
from componentforge.serving import serve
from componentforge.settings import ServiceSettings


class ScriptedLLM:
    """Gives the answers in order and records the prompts."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.prompts: list[str] = []
        self._answers = list(answers)
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        order = parse_request(await request.body())
        self.prompts.append(order.prompt)
        text = self._answers.pop(0)
        completion = Completion(id="chatcmpl-1", created_s=0, prompt=order.prompt, text=text)
        if not order.stream:
            return JSONResponse(completion.whole())
        chunks = [completion.chunk({"content": text}), completion.chunk({}, finish_reason="stop")]
        body = "".join(f"data: {JSONResponse(chunk).body.decode()}\n\n" for chunk in chunks)
        return Response(body + "data: [DONE]\n\n", media_type="text/event-stream")


@asynccontextmanager
async def scripted(answers: Sequence[str]) -> AsyncIterator[tuple[ScriptedLLM, LanguageModel]]:
    """Run a model with these answers and yield it with its client."""
    script = ScriptedLLM(answers)
    async with serve(script.app) as url:
        settings = ServiceSettings.from_env({}, offline_url=f"{url}/v1", figma_url="")
        async with LanguageModel(settings) as llm:
            yield script, llm
