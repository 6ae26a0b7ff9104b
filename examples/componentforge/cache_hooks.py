"""Pattern cache hooks: how a design is identified as a pattern, and how its component gets other design tokens.

A generated component declares its token values in one object and uses them as ``var(--…)`` everywhere else, so other
tokens are other values in that object. Code of any other form is not adapted; it is generated again.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from componentforge.agents.pattern_retriever import deciding_words
from componentforge.tokens import css_variables, merge
from forge_otel import GenerationRequest, GenerationResult
from forge_otel.errors import ForgeError
from forge_otel.keys import digest
from forge_otel.layers.hooks import CacheHooks
from forge_otel.layers.pattern.layer import PatternHooks
from forge_otel.types import Adapted

try:
    import tree_sitter
    import tree_sitter_typescript
except ImportError:
    _PARSER = None
else:
    _PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_typescript.language_tsx()))

__all__ = ["HOOKS", "is_well_formed", "replace_tokens"]

_TOKENS_OBJECT: Final = re.compile(r"^const tokens = \{\n(.*?)^\} as CSSProperties;$", re.DOTALL | re.MULTILINE)
_TOKEN_LINE: Final = re.compile(r'^  "(--[a-z0-9-]+)": ("(?:[^"\\\n]|\\.)*"),$', re.MULTILINE)
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}
_COMMENT_OR_STRING: Final = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|`(?:[^`\\]|\\.)*`', re.DOTALL
)


def identify(request: GenerationRequest) -> str | None:
    """Return the caller's pattern id, or one made of the design and of the words that decide which pattern it gets."""
    if request.pattern_id is not None or request.content_hash is None:
        return request.pattern_id
    words = deciding_words(request.component_type, request.requirements)
    return f"design-{request.content_hash[:32]}-{digest(words)[:12]}"


def learn(_request: GenerationRequest, result: GenerationResult) -> Mapping[str, Any]:
    """Return the pattern retriever's result, which the cache stores with the pattern."""
    return {"pattern": result.metadata["pattern"], "score": result.metadata["pattern_score"]}


def adapt(origin: GenerationResult, tokens: Mapping[str, Any], request: GenerationRequest) -> Adapted | None:
    """Return a cached component with the request's tokens, None if it has to be generated again."""
    if tokens:
        # The origin was itself generated with a caller's tokens, so the design's own values are not known.
        return None
    try:
        before = json.loads(origin.artifacts["tokens.json"])
        after = merge(before, request.tokens)
        code = replace_tokens(origin.code, css_variables(before), css_variables(after))
    except (ForgeError, KeyError, ValueError):
        return None
    if code is None:
        return None
    kept = {name: origin.artifacts[name] for name in ("stories.tsx", "requirements.json")}
    body = {"pattern": origin.metadata["pattern"], "score": origin.metadata["pattern_score"]}
    return Adapted(pattern_id="", body=body, result=GenerationResult(code=code, artifacts=kept))


def replace_tokens(code: str, before: Mapping[str, str], after: Mapping[str, str]) -> str | None:
    """Return a component with other values in its object of tokens.

    Args:
        code: the component.
        before: custom property to its present value, which the object must hold exactly.
        after: custom property to its new value.

    Returns:
        None if there is not exactly one object of tokens, it holds other lines than tokens, or a colour that changes
        also stands elsewhere in the code.
    """
    objects = list(_TOKENS_OBJECT.finditer(code))
    if len(objects) != 1:
        return None
    declared = {match[1]: match[2] for match in _TOKEN_LINE.finditer(objects[0][1])}
    is_as_expected = (
        before.keys() <= after.keys()
        and len(declared) == objects[0][1].count("\n")
        and all(before.get(name) == json.loads(value) for name, value in declared.items())
    )
    if not is_as_expected:
        return None
    # A colour that the code repeats outside the object would stay the old one.
    rest = code[: objects[0].start()] + code[objects[0].end() :]
    is_repeated = any(_changes_color(before, after, name) and before[name] in rest for name in declared)
    if not declared or is_repeated:
        return None
    replaced = "".join(f'  "{name}": {json.dumps(after[name], ensure_ascii=False)},\n' for name in declared)
    start, end = objects[0].span(1)
    return code[:start] + replaced + code[end:]


def is_well_formed(code: str) -> bool:
    """Return whether the code parses, or, without tree-sitter installed, whether its brackets are balanced."""
    if _PARSER is not None:
        return not _PARSER.parse(code.encode()).root_node.has_error
    opened: list[str] = []
    for sign in _COMMENT_OR_STRING.sub("", code):
        if sign in _PAIRS.values():
            opened.append(sign)
        elif sign in _PAIRS and (not opened or opened.pop() != _PAIRS[sign]):
            return False
    return not opened


def verify(adapted: Adapted, _request: GenerationRequest) -> bool:
    """Return whether the adapted code is well-formed."""
    return adapted.result is not None and is_well_formed(adapted.result.code)


def _changes_color(before: Mapping[str, str], after: Mapping[str, str], name: str) -> bool:
    # A number such as "8px" repeats by chance; a colour repeats because the code bypasses its token.
    return before[name] != after[name] and before[name].startswith("#")


HOOKS: Final = CacheHooks(patterns=PatternHooks(identify=identify, learn=learn, adapt=adapt, verify=verify))
