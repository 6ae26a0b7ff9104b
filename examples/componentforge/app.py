"""The service: ``POST /generate`` turns a Figma component into a React component, ``GET /components`` lists them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Route

from componentforge.briefs import ComponentType
from componentforge.instrumentation import instrument_openai
from componentforge.llm import LanguageModel
from componentforge.offers import offers
from componentforge.pipeline import generate
from componentforge.retheme import HOOKS
from componentforge.settings import ServiceSettings
from forge_otel import Forge, ForgeMiddleware, GenerationRequest
from forge_otel.figma.client import FigmaClient
from forge_otel.figma.nodes import FigmaNode
from forge_otel.figma.webhook import FigmaWebhook
from forge_otel.web.exception_handlers import install_problem_handlers
from forge_otel.web.pages.sse import events, last_event_id

__all__ = ["create_app"]

_MAX_NAME_CHARS = 256


class GenerateBody(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(extra="forbid")

    component_type: ComponentType
    figma_key: str = Field(min_length=1, max_length=128)
    node_id: str = Field(min_length=1, max_length=128)
    tokens: dict[str, Any] = {}
    requirements: dict[str, Any] = {}
    component_id: str | None = None
    component_name: str | None = None
    pattern_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    tenant: str | None = None


class GenerateAnswer(BaseModel):
    """What a caller gets; money is decimal text, so that no cent is lost on the way."""

    generation_id: str
    trace_id: str
    source: str
    cost_usd: str
    saved_usd: str
    component_id: str
    code: str
    artifacts: dict[str, str]
    metadata: dict[str, Any]


class OfferAnswer(BaseModel):
    """A component that can be generated."""

    figma_key: str
    node_id: str
    name: str
    component_type: str


def create_app(settings: ServiceSettings, forge: Forge | None = None) -> FastAPI:
    """Build the service.

    Args:
        settings: where Figma and the language model are.
        forge: the runtime; built from the environment where it is left out.
    """

    forge = forge or Forge.from_env(hooks=HOOKS)

    figma = FigmaClient.of(forge, token=settings.figma_token, base_url=settings.figma_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with figma, LanguageModel(settings, guard=forge.guard("openai")) as llm:
            app.state.llm = llm
            yield

    instrument_openai()
    app = FastAPI(title="ComponentForge", lifespan=lifespan)
    app.add_middleware(ForgeMiddleware, forge=forge)
    install_problem_handlers(app)
    app.add_api_route("/generate", _generate, methods=["POST"], response_model=GenerateAnswer)
    app.add_api_route("/generate/events", _follow, methods=["POST"], response_class=Response)
    app.add_api_route("/components", _components, methods=["GET"], response_model=list[OfferAnswer])
    if settings.figma_passcode:
        app.router.routes.append(Route("/figma/webhook", FigmaWebhook(figma, passcode=settings.figma_passcode)))
    app.state.settings, app.state.forge, app.state.figma = settings, forge, figma
    return app


async def _generate(body: GenerateBody, request: Request) -> GenerateAnswer:
    """Generate a component, or return the one that was generated before from the same design and wishes."""
    order, node = await _order(body, request)
    result = await generate(order, node, request.app.state.llm)
    return GenerateAnswer(
        generation_id=result.generation_id,
        trace_id=result.trace_id,
        source=result.source,
        cost_usd=str(result.cost_usd),
        saved_usd=str(result.saved_usd),
        component_id=result.component_id,
        code=result.code,
        artifacts=_texts(result.artifacts),
        metadata=dict(result.metadata),
    )


async def _follow(body: GenerateBody, request: Request) -> Response:
    """Stream what the running generation of the same body does, from its beginning, in whichever worker it runs."""
    order, _ = await _order(body, request)
    return await events(request.app.state.forge.follow(order, after=last_event_id(request)))


async def _order(body: GenerateBody, request: Request) -> tuple[GenerationRequest, FigmaNode]:
    node = await request.app.state.figma.node(body.figma_key, body.node_id)
    order = GenerationRequest(
        **body.model_dump(exclude={"node_id", "component_name"}),
        component_name=body.component_name or node.document["name"][:_MAX_NAME_CHARS],
        content_hash=node.content_hash,
    )
    return order, node


async def _components(request: Request) -> list[OfferAnswer]:
    """List the components that can be generated."""
    figma: FigmaClient = request.app.state.figma
    found = [offer for key in request.app.state.settings.figma_files for offer in await offers(figma, key)]
    return [OfferAnswer(**asdict(offer)) for offer in found]


def _texts(artifacts: Mapping[str, str | bytes]) -> dict[str, str]:
    return {
        name: content if isinstance(content, str) else content.decode(errors="replace")
        for name, content in artifacts.items()
    }
