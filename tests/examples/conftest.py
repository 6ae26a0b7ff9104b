"""Fixtures: the stand-in servers over real HTTP on free loopback ports."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from componentforge.figma_server import StandInFigma
from componentforge.llm import LanguageModel
from componentforge.offline_llm.server import create_offline_llm
from componentforge.serving import serve
from componentforge.settings import ServiceSettings


@dataclass(frozen=True)
class FigmaSite:
    """A running stand-in Figma."""

    figma: StandInFigma
    url: str
    http: httpx.AsyncClient


@pytest.fixture
async def site() -> AsyncIterator[FigmaSite]:
    """Run a stand-in Figma that accepts one token, with a client that sends it."""
    figma = StandInFigma(tokens={"secret"})
    async with (
        serve(figma.app) as url,
        httpx.AsyncClient(base_url=url, headers={"X-Figma-Token": "secret"}) as http,
    ):
        yield FigmaSite(figma=figma, url=url, http=http)


@pytest.fixture
async def llm_url() -> AsyncIterator[str]:
    """Run the offline model without its delays."""
    async with serve(create_offline_llm(time_scale=float("inf"))) as url:
        yield url


@pytest.fixture
async def llm(llm_url: str) -> AsyncIterator[LanguageModel]:
    """Connect to the offline model as the service does."""
    settings = ServiceSettings.from_env({}, offline_url=f"{llm_url}/v1", figma_url="")
    async with LanguageModel(settings) as model:
        yield model
