"""Errors of the language model become ForgeErrors."""

import pytest
from tests.examples.samples import brief_for, sample

from componentforge.agents.code_generator import generate_code
from componentforge.llm import LanguageModel, UnusableAnswer
from componentforge.settings import ServiceSettings

BRIEF = brief_for(sample("Input/Text field"))


async def test_a_rejected_request_is_not_retried(llm_url: str) -> None:
    """An unknown model is an UnusableAnswer with the status, not an outage."""
    settings = ServiceSettings(
        figma_url="", figma_token="", openai_url=f"{llm_url}/v1", openai_key="k", openai_model="no-such-model"
    )
    async with LanguageModel(settings) as llm:
        with pytest.raises(UnusableAnswer, match="status 404"):
            await generate_code(BRIEF, llm=llm)
