"""The offline model as a pure function from prompt to answer."""

from componentforge.offline_llm.component_writer import write_component
from componentforge.offline_llm.requirements_writer import write_requirements
from componentforge.offline_llm.stories_writer import write_stories
from componentforge.schemas import ComponentBrief, RequirementsBrief, read_context

__all__ = ["answer"]

_NO_CONTEXT = (
    "This is forge-offline-1, the offline stand-in of ComponentForge, not a language model. It answers only prompts "
    "with a ComponentForge context block. Set OPENAI_API_KEY to use a real model."
)


def answer(prompt: str) -> str:
    """Return the answer to a prompt, the messages of a conversation joined by newlines."""
    match read_context(prompt):
        case RequirementsBrief() as brief:
            return write_requirements(brief).model_dump_json()
        case ComponentBrief() as brief:
            component, stories = write_component(brief), write_stories(brief)
            return f"```tsx component.tsx\n{component}```\n\n```tsx stories.tsx\n{stories}```\n"
        case None:
            return _NO_CONTEXT
