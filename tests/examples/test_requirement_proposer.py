"""The requirement proposer uses valid answers, retries an invalid one once, and then raises an error."""

import json

import pytest
from tests.examples.samples import brief_for, sample
from tests.examples.scripted_llm import scripted

from componentforge.agents.requirement_proposer import propose_requirements
from componentforge.llm import LanguageModel, UnusableAnswer
from componentforge.schemas import Requirements

BRIEF = brief_for(sample("Input/Text field"))
GOOD = BRIEF.requirements.model_dump_json()


async def proposed(llm: LanguageModel) -> Requirements:
    """Propose requirements of the sample."""
    return await propose_requirements("input", "TextFieldInput", BRIEF.blueprint, {"notes": "short"}, llm=llm)


def without(name: str) -> str:
    """Return valid requirements without one member."""
    return json.dumps({key: value for key, value in json.loads(GOOD).items() if key != name})


async def test_requirements_of_the_offline_model(llm: LanguageModel) -> None:
    """The offline model's proposal covers texts, axes, switches and events of the design."""
    requirements = await proposed(llm)
    assert [prop.name for prop in requirements.props] == [
        "state",
        "label",
        "placeholder",
        "helper",
        "showIcon",
        "disabled",
    ]
    assert [event.name for event in requirements.events] == ["onChange"]
    assert {rule.needs for rule in requirements.accessibility} >= {"label", "aria-describedby", "aria-invalid"}


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "I cannot do that.",
        "[]",
        without("props"),
        GOOD.replace('"onChange"', '"change"'),
        GOOD.replace('"placeholder"', '"class"', 1),
        GOOD.replace('"placeholder"', '"label"', 1),
        GOOD.replace('"aria-invalid"', '"onerror=alert(1)"'),
        GOOD.replace('"flag"', '"function"'),
    ],
)
async def test_invalid_requirements_are_retried_once(bad: str) -> None:
    """The second prompt has the answer and its errors, and the second answer is used."""
    async with scripted([bad, GOOD]) as (script, llm):
        assert (await proposed(llm)).model_dump_json() == GOOD
    assert len(script.prompts) == 2
    assert "Your answer cannot be used" in script.prompts[1]
    assert bad in script.prompts[1]


async def test_two_invalid_answers_are_an_error() -> None:
    """There is no third attempt."""
    async with scripted(["{}", "{}", GOOD]) as (script, llm):
        with pytest.raises(UnusableAnswer, match="props: Field required"):
            await proposed(llm)
    assert len(script.prompts) == 2
