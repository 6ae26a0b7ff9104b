"""Sample components and a TSX parser, shared by the tests of the example."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tree_sitter
import tree_sitter_typescript

from componentforge.agents.code_generator import GeneratedCode
from componentforge.agents.pattern_retriever import rank_patterns
from componentforge.agents.token_extractor import extract
from componentforge.designs import FILES, load
from componentforge.naming import component_identifier
from componentforge.offline_llm.model import answer
from componentforge.offline_llm.requirements_writer import write_requirements
from componentforge.schemas import ComponentBrief, RequirementsBrief, context_block, fenced_files
from componentforge.tokens import css_variables, merge
from forge_otel.figma.nodes import FigmaNode

ATLAS = "aT1as7DeSiGn2SyStEm9Qk"
HARBOR = "hArB0rC0mmErCe5KiT3xWz"

_TSX = tree_sitter.Parser(tree_sitter.Language(tree_sitter_typescript.language_tsx()))


@dataclass(frozen=True)
class Sample:
    """One sample component."""

    name: str
    component_type: str
    node: FigmaNode


def samples() -> list[Sample]:
    """Return every component of the sample files."""
    return list(_samples())


def _samples() -> Iterator[Sample]:
    for key in FILES:
        file = load(key)
        styles = {style_id: style["name"] for style_id, style in file["styles"].items()}
        for node in (node for page in file["document"]["children"] for node in page["children"]):
            yield Sample(
                name=node["name"],
                component_type=node["name"].partition("/")[0].lower(),
                node=FigmaNode(file_key=key, node_id=node["id"], version=file["version"], document=node, styles=styles),
            )


def sample(name: str) -> Sample:
    """Return one sample component by its name."""
    return next(found for found in samples() if found.name == name)


def brief_for(found: Sample, *, tokens: Any = None, requested: Any = None) -> ComponentBrief:
    """Return the code generator's brief for a sample, with requirements of the offline model."""
    extraction = extract(found.node)
    name = component_identifier(found.node.document["name"], component_type=found.component_type)
    facts: dict[str, Any] = {
        "component_type": found.component_type,
        "component_name": name,
        "blueprint": extraction.blueprint,
    }
    return ComponentBrief(
        **facts,
        css_variables=css_variables(merge(extraction.tokens, tokens or {})),
        requirements=write_requirements(RequirementsBrief(**facts, requested=requested or {})),
        pattern=rank_patterns(found.name, component_type=facts["component_type"])[0].pattern,
    )


def code_for(brief: ComponentBrief) -> GeneratedCode:
    """Return the offline model's code for a brief."""
    files = fenced_files(answer(context_block(brief)))
    return GeneratedCode(component=files["component.tsx"], stories=files["stories.tsx"])


def syntax_error(code: str) -> str | None:
    """Return the text around the first syntax error of a TSX file, None if it parses."""
    root = _TSX.parse(code.encode()).root_node
    if not root.has_error:
        return None
    node = root
    while broken := next((child for child in node.children if child.has_error or child.is_missing), None):
        node = broken
    return f"line {node.start_point[0] + 1}: {code.encode()[node.start_byte : node.end_byte + 80]!r}"


def declared_names(code: str) -> set[str]:
    """Return the names that a TSX file exports."""
    root = _TSX.parse(code.encode()).root_node
    names = set()
    for statement in root.children:
        declaration = statement.child_by_field_name("declaration")
        if statement.type != "export_statement" or declaration is None:
            continue
        for node in (declaration, *declaration.named_children):
            name = node.child_by_field_name("name")
            if name is not None and name.text is not None:
                names.add(name.text.decode())
    return names
