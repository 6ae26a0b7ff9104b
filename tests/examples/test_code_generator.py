"""The code generator uses complete answers, retries an incomplete one once, and then raises an error."""

import pytest
from tests.examples.samples import brief_for, code_for, sample
from tests.examples.scripted_llm import scripted

from componentforge.agents.code_generator import generate_code
from componentforge.llm import UnusableAnswer

BRIEF = brief_for(sample("Input/Text field"))
CODE = code_for(BRIEF)
FILES = f"Here you are.\n```tsx component.tsx\n{CODE.component}```\n```tsx stories.tsx\n{CODE.stories}```\n"


async def test_files_are_parsed_from_the_answer() -> None:
    """Text outside of the fences is ignored."""
    async with scripted([FILES]) as (script, llm):
        assert await generate_code(BRIEF, llm=llm) == CODE
    assert len(script.prompts) == 1


@pytest.mark.parametrize(
    ("bad", "missing"),
    [
        ("", "component.tsx and stories.tsx"),
        (FILES.partition("```tsx stories.tsx")[0], "stories.tsx"),
        (FILES.replace("component.tsx", "button.tsx"), "component.tsx"),
        (FILES.removesuffix("```\n"), "stories.tsx"),
    ],
)
async def test_a_missing_file_is_requested_once(bad: str, missing: str) -> None:
    """The second prompt names the missing file, and the second answer is used."""
    async with scripted([bad, FILES]) as (script, llm):
        assert await generate_code(BRIEF, llm=llm) == CODE
    assert f"Your answer lacks {missing}." in script.prompts[1]


async def test_two_incomplete_answers_are_an_error() -> None:
    """There is no third attempt."""
    async with scripted(["sorry", "sorry", FILES]) as (script, llm):
        with pytest.raises(UnusableAnswer, match=r"lacks component\.tsx and stories\.tsx"):
            await generate_code(BRIEF, llm=llm)
    assert len(script.prompts) == 2
