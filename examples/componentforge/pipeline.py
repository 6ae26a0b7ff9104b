"""The generation: five agents, from a Figma node to a component with its stories, tokens, requirements and report."""

import asyncio
import json

from componentforge.agents.code_generator import GeneratedCode, generate_code
from componentforge.agents.pattern_retriever import Match, pattern_by_id, retrieve_pattern
from componentforge.agents.quality_validator import validate_quality
from componentforge.agents.requirement_proposer import propose_requirements
from componentforge.agents.token_extractor import Extraction, extract_tokens
from componentforge.briefs import COMPONENT_TYPES, Blueprint, ComponentBrief, ComponentType, Requirements
from componentforge.llm import LanguageModel
from componentforge.naming import component_identifier
from componentforge.quality_report import render_report
from componentforge.tokens import css_variables
from forge_otel import GenerationRequest, GenerationResult, generation
from forge_otel.context import current_call
from forge_otel.errors import BadRequest
from forge_otel.figma.nodes import FigmaNode
from forge_otel.types import Adapted

__all__ = ["generate"]


@generation
async def generate(request: GenerationRequest, node: FigmaNode, llm: LanguageModel) -> GenerationResult:
    """Run the five agents, or those that the pattern cache has no answer of.

    Args:
        request: what is asked; its content hash is the node's, so that an edited design is a new question.
        node: the design.
        llm: the model that writes requirements and code.

    Raises:
        BadRequest: the component type is unknown, or a token of the caller is none.
        NotFound: the caller chose a pattern that does not exist.
        UnusableAnswer: the model answers with something that cannot be used.
        ServiceUnavailable: the model cannot be reached.
    """
    component_type = _component_type(request.component_type)
    name = component_identifier(node.document["name"], component_type=component_type)
    extraction = await extract_tokens(node, request.tokens)
    blueprint = extraction.blueprint
    known = _known_pattern()
    if known is not None and known.result is not None:
        # The same component in other design tokens: what is left is to validate it.
        brief = ComponentBrief(
            component_type=component_type,
            component_name=name,
            blueprint=blueprint,
            css_variables=css_variables(extraction.tokens),
            requirements=Requirements.model_validate_json(known.result.artifacts["requirements.json"]),
            pattern=pattern_by_id(known.body["pattern"]),
        )
        code = GeneratedCode(component=known.result.code, stories=str(known.result.artifacts["stories.tsx"]))
        return await _finish(code, brief, extraction, llm=llm, score=known.body["score"])
    try:
        async with asyncio.TaskGroup() as group:
            proposing = group.create_task(
                propose_requirements(component_type, name, blueprint, request.requirements, llm=llm)
            )
            retrieving = group.create_task(_pattern(known, component_type, blueprint, request))
    except ExceptionGroup as failures:
        # Callers know the errors of the agents, not the group that asyncio packs them into.
        raise _first(failures) from failures
    brief = ComponentBrief(
        component_type=component_type,
        component_name=name,
        blueprint=blueprint,
        css_variables=css_variables(extraction.tokens),
        requirements=proposing.result(),
        pattern=retrieving.result().pattern,
    )
    code = await generate_code(brief, llm=llm)
    return await _finish(code, brief, extraction, llm=llm, score=retrieving.result().score)


async def _pattern(
    known: Adapted | None, component_type: ComponentType, blueprint: Blueprint, request: GenerationRequest
) -> Match:
    """Return the pattern that was retrieved before for this design and these tokens, or retrieve it."""
    if known is not None:
        return Match(pattern=pattern_by_id(known.body["pattern"]), score=known.body["score"])
    return await retrieve_pattern(component_type, blueprint, request.requirements, pattern_id=request.pattern_id)


def _known_pattern() -> Adapted | None:
    call = current_call.get()
    return None if call is None else call.pattern


async def _finish(
    code: GeneratedCode, brief: ComponentBrief, extraction: Extraction, *, llm: LanguageModel, score: float | None
) -> GenerationResult:
    """Validate the component and pack all that was made."""
    quality = await validate_quality(code, brief)
    report = render_report(quality, brief, model=llm.name)
    return GenerationResult(
        code=code.component,
        artifacts={
            "component.tsx": code.component,
            "stories.tsx": code.stories,
            "tokens.json": json.dumps(extraction.tokens, indent=2),
            "requirements.json": brief.requirements.model_dump_json(indent=2),
            "quality-report.html": report,
        },
        report_html=report,
        metadata={
            "component_name": brief.component_name,
            "model": llm.name,
            "offline_model": llm.is_offline,
            "pattern": brief.pattern.id,
            "pattern_score": score,
            "quality_score": quality.score,
            "findings": len(quality.findings),
        },
    )


def _component_type(name: str) -> ComponentType:
    for known in COMPONENT_TYPES:
        if name == known:
            return known
    raise BadRequest(f"the component type {name[:50]!r} is unknown; choose one of {', '.join(COMPONENT_TYPES)}")


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """Return the first failure that is no group."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
