"""What the service tells its caches: which pattern a design has, and how a component gets other design tokens.

A generated component declares the values of its tokens in one object and uses them as ``var(--…)`` everywhere else, so
other tokens are other values in that object. Whatever is not exactly so is not re-themed but generated anew.
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

__all__ = ["HOOKS", "fill", "is_whole"]

_OBJECT: Final = re.compile(r"^const tokens = \{\n(.*?)^\} as CSSProperties;$", re.DOTALL | re.MULTILINE)
_SLOT: Final = re.compile(r'^  "(--[a-z0-9-]+)": ("(?:[^"\\\n]|\\.)*"),$', re.MULTILINE)
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}
_NO_CODE: Final = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|`(?:[^`\\]|\\.)*`', re.DOTALL
)


def pattern_of(request: GenerationRequest) -> str | None:
    """Name the pattern of a request: the caller's, or that of its design and those words that decide what is found."""
    if request.pattern_id is not None or request.content_hash is None:
        return request.pattern_id
    words = deciding_words(request.component_type, request.requirements)
    return f"design-{request.content_hash[:32]}-{digest(words)[:12]}"


def learn(_request: GenerationRequest, result: GenerationResult) -> Mapping[str, Any]:
    """Keep what the pattern retriever found."""
    return {"pattern": result.metadata["pattern"], "score": result.metadata["pattern_score"]}


def adapt(origin: GenerationResult, tokens: Mapping[str, Any], request: GenerationRequest) -> Adapted | None:
    """Fill the request's tokens into a component that was generated with those of its design."""
    if tokens:
        # What the design had in place of a caller's token is not known any more.
        return None
    try:
        before = json.loads(origin.artifacts["tokens.json"])
        after = merge(before, request.tokens)
        code = fill(origin.code, css_variables(before), css_variables(after))
    except (ForgeError, KeyError, ValueError):
        return None
    if code is None:
        return None
    kept = {name: origin.artifacts[name] for name in ("stories.tsx", "requirements.json")}
    body = {"pattern": origin.metadata["pattern"], "score": origin.metadata["pattern_score"]}
    return Adapted(pattern_id="", body=body, result=GenerationResult(code=code, artifacts=kept))


def fill(code: str, before: Mapping[str, str], after: Mapping[str, str]) -> str | None:
    """Return the component with other values of its tokens.

    Args:
        before: what each custom property was: each slot must hold exactly that.
        after: what it is to be.

    Returns:
        None where the object of tokens is not there once, holds something else than slots, or another value.
    """
    objects = list(_OBJECT.finditer(code))
    if len(objects) != 1:
        return None
    slots = {match[1]: match[2] for match in _SLOT.finditer(objects[0][1])}
    is_accounted_for = (
        before.keys() <= after.keys()
        and len(slots) == objects[0][1].count("\n")
        and all(before.get(name) == json.loads(value) for name, value in slots.items())
    )
    if not is_accounted_for:
        return None
    # A value that stands anywhere else in the code would keep its old colour.
    rest = code[: objects[0].start()] + code[objects[0].end() :]
    is_elsewhere = any(_changes(before, after, name) and before[name] in rest for name in slots)
    if not slots or is_elsewhere:
        return None
    filled = "".join(f'  "{name}": {json.dumps(after[name], ensure_ascii=False)},\n' for name in slots)
    start, end = objects[0].span(1)
    return code[:start] + filled + code[end:]


def is_whole(code: str) -> bool:
    """Whether the code parses, by tree-sitter where it is installed; otherwise whether every bracket is closed."""
    if _PARSER is not None:
        return not _PARSER.parse(code.encode()).root_node.has_error
    opened: list[str] = []
    for sign in _NO_CODE.sub("", code):
        if sign in _PAIRS.values():
            opened.append(sign)
        elif sign in _PAIRS and (not opened or opened.pop() != _PAIRS[sign]):
            return False
    return not opened


def verify(adapted: Adapted, _request: GenerationRequest) -> bool:
    """Parse what was filled in again."""
    return adapted.result is not None and is_whole(adapted.result.code)


def _changes(before: Mapping[str, str], after: Mapping[str, str], name: str) -> bool:
    # Of a number it says nothing that it stands somewhere else, too; of a colour it does.
    return before[name] != after[name] and before[name].startswith("#")


HOOKS: Final = CacheHooks(patterns=PatternHooks(identify=pattern_of, learn=learn, adapt=adapt, verify=verify))
