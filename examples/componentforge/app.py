"""The FastAPI application: ``POST /generate``, ``POST /generate/events`` and ``GET /components``."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Route

from componentforge.cache_hooks import HOOKS
from componentforge.catalog import list_components
from componentforge.instrumentation import instrument_openai
from componentforge.llm import LanguageModel
from componentforge.pipeline import generate
from componentforge.schemas import ComponentType
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
    """The body of ``POST /generate``."""

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


class GenerateResponse(BaseModel):
    """The response of ``POST /generate``."""

    generation_id: str
    trace_id: str
    source: str
    # Decimal text, because a JSON number would round the cents.
    cost_usd: str
    saved_usd: str
    component_id: str
    code: str
    artifacts: dict[str, str]
    metadata: dict[str, Any]


class ComponentResponse(BaseModel):
    """One item of ``GET /components``: a component that can be generated."""

    figma_key: str
    node_id: str
    name: str
    component_type: str


def create_app(settings: ServiceSettings, forge: Forge | None = None) -> FastAPI:
    """Build the service.

    Args:
        settings: addresses and keys of Figma and the language model.
        forge: the runtime; by default built from the ``FORGE_*`` variables.
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
    app.add_api_route("/generate", _generate, methods=["POST"], response_model=GenerateResponse)
    app.add_api_route("/generate/events", _follow, methods=["POST"], response_class=Response)
    app.add_api_route("/components", _components, methods=["GET"], response_model=list[ComponentResponse])
    if settings.figma_passcode:
        app.router.routes.append(Route("/figma/webhook", FigmaWebhook(figma, passcode=settings.figma_passcode)))
    app.state.settings, app.state.forge, app.state.figma = settings, forge, figma
    return app


async def _generate(body: GenerateBody, request: Request) -> GenerateResponse:
    """Generate a component, or return a cached one for the same design, tokens and requirements."""
    generation_request, node = await _read_design(body, request)
    result = await generate(generation_request, node, request.app.state.llm)
    return GenerateResponse(
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
    """Stream the progress of the running generation of the same body, from its first event, also in another worker."""
    generation_request, _ = await _read_design(body, request)
    return await events(request.app.state.forge.follow(generation_request, after=last_event_id(request)))


async def _read_design(body: GenerateBody, request: Request) -> tuple[GenerationRequest, FigmaNode]:
    """Fetch the design from Figma and return it with the generation request for it."""
    node = await request.app.state.figma.node(body.figma_key, body.node_id)
    generation_request = GenerationRequest(
        **body.model_dump(exclude={"node_id", "component_name"}),
        component_name=body.component_name or node.document["name"][:_MAX_NAME_CHARS],
        # Part of the cache key: an edited design is another request.
        content_hash=node.content_hash,
    )
    return generation_request, node


async def _components(request: Request) -> list[ComponentResponse]:
    """List the components that can be generated."""
    figma: FigmaClient = request.app.state.figma
    entries = [entry for key in request.app.state.settings.figma_files for entry in await list_components(figma, key)]
    return [ComponentResponse(**asdict(entry)) for entry in entries]


def _texts(artifacts: Mapping[str, str | bytes]) -> dict[str, str]:
    return {
        name: content if isinstance(content, str) else content.decode(errors="replace")
        for name, content in artifacts.items()
    }
