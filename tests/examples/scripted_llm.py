"""An OpenAI-compatible server whose answers a test writes."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from componentforge.offline_llm.wire import Completion, parse_request


class ScriptedLLM:
    """Gives the answers in order; `prompts` are the conversations that asked for them."""

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
