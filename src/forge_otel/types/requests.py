"""What is asked, and what is answered."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from forge_otel.errors import BadRequest

__all__ = ["ZERO_USD", "Artifact", "GenerationRequest", "GenerationResult"]

Artifact = str | bytes
"""The content of one artifact: text, or raw bytes."""

ZERO_USD: Final = Decimal(0)

# What may become a folder name, an object key and a URL segment on every store we write to.
_COMPONENT_ID: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)
_MAX_NAME_CHARS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One thing to generate.

    Args:
        component_type: what kind of component, of few values, for example `"button"`.
        figma_key: the key of the Figma file; this or `screenshot_hash` is needed.
        screenshot_hash: the hash of the picture that is the source instead of a Figma file.
        content_hash: hash or version of the design's content, because a design can change under the same key.
        tokens: design tokens, JSON-like.
        requirements: what the component must do, JSON-like.
        component_id: names the archive folder; letters, digits, `.`, `_`, `-`, at most 128 characters.
            Derived from the cache key where it is left out.
        component_name: a name for people.
        pattern_id: the pattern to start from.
        user_id, session_id, tenant: on whose behalf; the tenant separates cache entries.

    Raises:
        BadRequest: a field is missing or malformed.
    """

    component_type: str
    figma_key: str | None = None
    screenshot_hash: str | None = None
    content_hash: str | None = None
    tokens: Mapping[str, Any] = field(default_factory=dict)
    requirements: Mapping[str, Any] = field(default_factory=dict)
    component_id: str | None = None
    component_name: str | None = None
    pattern_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        if not self.component_type:
            raise BadRequest("component_type is missing; say which kind of component to generate")
        if not (self.figma_key or self.screenshot_hash):
            raise BadRequest("figma_key or screenshot_hash is missing; say which design to generate from")
        component_id: Any = self.component_id
        if component_id is not None and not (isinstance(component_id, str) and _COMPONENT_ID.fullmatch(component_id)):
            raise BadRequest(
                "component_id may hold 1 to 128 letters, digits, '.', '_' and '-', and may not be '.' or '..'"
            )
        for name in ("component_type", "figma_key", "screenshot_hash", "content_hash", "component_name"):
            self._check_length(name)
        for name in ("pattern_id", "user_id", "session_id", "tenant"):
            self._check_length(name)

    def _check_length(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and (not isinstance(value, str) or len(value) > _MAX_NAME_CHARS):
            raise BadRequest(f"{name} must be a string of at most {_MAX_NAME_CHARS} characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """What a generation gave, and where it came from.

    Args:
        code: the main artifact.
        artifacts: name to content, for example `{"component.tsx": "…"}`.
        report_html: the quality report.
        metadata: JSON-like facts for the caller; a cached answer has them as JSON gives them back.
        source: who answered: `"L1"`, `"L2"`, `"L3"`, `"L4"` or `"collapsed"`; set by the runtime.
        generation_id, trace_id: set by the runtime.
        cost_usd: what this call spent; set by the runtime.
        saved_usd: what this call did not have to spend; set by the runtime.

    Raises:
        TypeError: a field has another type.
    """

    code: str
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    report_html: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = "L4"
    generation_id: str = ""
    trace_id: str = ""
    component_id: str = ""
    cost_usd: Decimal = ZERO_USD
    saved_usd: Decimal = ZERO_USD

    def __post_init__(self) -> None:
        # A wrong type would only be found when the answer is stored, after its money was spent.
        texts: tuple[Any, ...] = (self.code, "" if self.report_html is None else self.report_html, *self.artifacts)
        contents: tuple[Any, ...] = tuple(self.artifacts.values())
        metadata: Any = self.metadata
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("code, report_html and the names of artifacts of a GenerationResult are strings")
        if not all(isinstance(content, str | bytes) for content in contents):
            raise TypeError("the artifacts of a GenerationResult are strings or bytes")
        if not isinstance(metadata, Mapping):
            raise TypeError("metadata of a GenerationResult is a mapping; leave it out where there is none")
