"""The pipeline: five agents that turn a Figma node into a component, its stories, tokens, requirements and report."""

import asyncio
import json

from componentforge.agents.code_generator import GeneratedCode, generate_code
from componentforge.agents.pattern_retriever import Match, pattern_by_id, retrieve_pattern
from componentforge.agents.quality_validator import validate_quality
from componentforge.agents.requirement_proposer import propose_requirements
from componentforge.agents.token_extractor import Extraction, extract_tokens
from componentforge.llm import LanguageModel
from componentforge.naming import component_identifier
from componentforge.quality_report import render_report
from componentforge.schemas import COMPONENT_TYPES, Blueprint, ComponentBrief, ComponentType, Requirements
from componentforge.tokens import css_variables
from forge_otel import GenerationRequest, GenerationResult, generation
from forge_otel.context import current_call
from forge_otel.errors import BadRequest
from forge_otel.figma.nodes import FigmaNode
from forge_otel.types import Adapted

__all__ = ["generate"]


@generation
async def generate(request: GenerationRequest, node: FigmaNode, llm: LanguageModel) -> GenerationResult:
    """Run the five agents, except those whose results the pattern cache already has.

    Args:
        request: the generation request, with the node's content hash.
        node: the design.
        llm: the model that writes requirements and code.

    Raises:
        BadRequest: the component type is unknown, or one of the caller's tokens is malformed.
        NotFound: the caller chose a pattern that does not exist.
        UnusableAnswer: the model refuses, or its second answer is invalid too.
        ServiceUnavailable: the model cannot be reached.
    """
    component_type = _component_type(request.component_type)
    name = component_identifier(node.document["name"], component_type=component_type)
    extraction = await extract_tokens(node, request.tokens)
    blueprint = extraction.blueprint
    cached = _cached_pattern()
    if cached is not None and cached.result is not None:
        # The cached component with this request's tokens filled in (`cache_hooks.adapt`); only validation remains.
        brief = ComponentBrief(
            component_type=component_type,
            component_name=name,
            blueprint=blueprint,
            css_variables=css_variables(extraction.tokens),
            requirements=Requirements.model_validate_json(cached.result.artifacts["requirements.json"]),
            pattern=pattern_by_id(cached.body["pattern"]),
        )
        code = GeneratedCode(component=cached.result.code, stories=str(cached.result.artifacts["stories.tsx"]))
        return await _finish(code, brief, extraction, llm=llm, score=cached.body["score"])
    try:
        async with asyncio.TaskGroup() as group:
            proposing = group.create_task(
                propose_requirements(component_type, name, blueprint, request.requirements, llm=llm)
            )
            retrieving = group.create_task(_pattern(cached, component_type, blueprint, request))
    except ExceptionGroup as failures:
        # Raised alone, a ForgeError keeps its HTTP status and its message.
        raise _first_error(failures) from failures
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
    cached: Adapted | None, component_type: ComponentType, blueprint: Blueprint, request: GenerationRequest
) -> Match:
    """Return the cached pattern of this design and these tokens, or retrieve one."""
    if cached is not None:
        return Match(pattern=pattern_by_id(cached.body["pattern"]), score=cached.body["score"])
    return await retrieve_pattern(component_type, blueprint, request.requirements, pattern_id=request.pattern_id)


def _cached_pattern() -> Adapted | None:
    call = current_call.get()
    return None if call is None else call.pattern


async def _finish(
    code: GeneratedCode, brief: ComponentBrief, extraction: Extraction, *, llm: LanguageModel, score: float | None
) -> GenerationResult:
    """Validate the component and return it with all artifacts."""
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
    for component_type in COMPONENT_TYPES:
        if name == component_type:
            return component_type
    raise BadRequest(f"the component type {name[:50]!r} is unknown; choose one of {', '.join(COMPONENT_TYPES)}")


def _first_error(failures: ExceptionGroup[Exception]) -> Exception:
    """Return the first error inside nested exception groups."""
    first = failures.exceptions[0]
    return _first_error(first) if isinstance(first, ExceptionGroup) else first
