"""Usage, models and provider of a model call, read from span attributes.

Pure functions. Attributes are read under their current, former and proposed names, because instrumentations of all
versions are in use.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypedDict

from forge_otel.names import Attr
from forge_otel.types import Usage

__all__ = ["USAGE_ATTRIBUTES", "ModelCall", "UsageDetails", "partition", "read_call", "reported_call", "same_model"]

# A larger count is an error of the instrumentation, and would dominate every sum.
_MAX_TOKENS: Final = 2**40
# Alternative names of a count; the first that is set is used.
_INPUT: Final = (Attr.GEN_AI_INPUT_TOKENS, Attr.GEN_AI_INPUT_TOKENS_FORMER)
_OUTPUT: Final = (Attr.GEN_AI_OUTPUT_TOKENS, Attr.GEN_AI_OUTPUT_TOKENS_FORMER)
_CACHE_READ: Final = (Attr.GEN_AI_CACHE_READ_TOKENS, Attr.GEN_AI_CACHE_READ_TOKENS_FORMER)
_CACHE_WRITE: Final = (
    Attr.GEN_AI_CACHE_WRITE_TOKENS,
    Attr.GEN_AI_CACHE_WRITE_TOKENS_COMING,
    Attr.GEN_AI_CACHE_WRITE_TOKENS_FORMER,
)
_REASONING: Final = (Attr.GEN_AI_REASONING_TOKENS, Attr.GEN_AI_REASONING_TOKENS_FORMER)
USAGE_ATTRIBUTES: Final = frozenset({*_INPUT, *_OUTPUT, Attr.GEN_AI_COST_USD})
"""A span with any of these attributes describes a model call."""

# Suffixes by which providers name a version of a model.
_VERSION: Final = re.compile(r"[-@:](\d{4}-\d{2}-\d{2}|\d{4,8}|latest)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One call to a model.

    Args:
        models: names of the model: that of the response, then that of the request.
        cost_usd: cost reported by the provider, which takes precedence over the price table.
    """

    usage: Usage
    models: tuple[str, ...] = ()
    provider: str = ""
    cost_usd: Decimal | None = None

    @property
    def model(self) -> str:
        """The name in the request, which does not change with versions."""
        return self.models[-1] if self.models else ""


class UsageDetails(TypedDict, total=False):
    """Optional facts about a model call that an application reports."""

    model: str
    """Name of the model in the price list."""
    provider: str
    """For example ``"openai"``."""
    cost_usd: Decimal | None
    """Cost reported by the provider, which takes precedence over the price list."""
    cache_read_tokens: int
    """Input tokens read from the provider's cache."""
    cache_write_tokens: int
    """Input tokens written to the provider's cache."""
    reasoning_tokens: int
    """Output tokens of hidden reasoning."""


def reported_call(input_tokens: int, output_tokens: int, details: UsageDetails) -> ModelCall:
    """Return the model call that an application reports."""
    model = details.get("model", "")
    return ModelCall(
        usage=partition(
            input_tokens,
            output_tokens,
            cache_read=details.get("cache_read_tokens", 0),
            cache_write=details.get("cache_write_tokens", 0),
            reasoning=details.get("reasoning_tokens", 0),
        ),
        models=(model,) if model else (),
        provider=details.get("provider", ""),
        cost_usd=details.get("cost_usd"),
    )


def partition(
    input_tokens: int, output_tokens: int, *, cache_read: int = 0, cache_write: int = 0, reasoning: int = 0
) -> Usage:
    """Return token totals, which include cached and reasoning tokens by the conventions, as disjoint counts."""
    # Some providers report these parts in addition to the totals, which shows if a part exceeds its total.
    cached = cache_read + cache_write
    return Usage(
        input_uncached=input_tokens - cached if cached <= input_tokens else input_tokens,
        cache_read=cache_read,
        cache_write=cache_write,
        output=output_tokens - reasoning if reasoning <= output_tokens else output_tokens,
        reasoning=reasoning,
    )


def read_call(attributes: Mapping[str, Any]) -> ModelCall | None:
    """Return the model call that the attributes of an ended span describe; None without usage or cost."""
    usage = partition(
        _count(attributes, _INPUT),
        _count(attributes, _OUTPUT),
        cache_read=_count(attributes, _CACHE_READ),
        cache_write=_count(attributes, _CACHE_WRITE),
        reasoning=_count(attributes, _REASONING),
    )
    cost_usd = _amount(attributes.get(Attr.GEN_AI_COST_USD))
    if usage == Usage() and cost_usd is None:
        return None
    models = (_text(attributes, Attr.GEN_AI_RESPONSE_MODEL), _text(attributes, Attr.GEN_AI_REQUEST_MODEL))
    return ModelCall(
        usage=usage,
        models=tuple(model for model in models if model),
        provider=_text(attributes, Attr.GEN_AI_PROVIDER) or _text(attributes, Attr.GEN_AI_SYSTEM),
        cost_usd=cost_usd,
    )


def same_model(one: str, other: str) -> bool:
    """Return whether two names may mean one model, like `openai/gpt-4o`, `gpt-4o` and `gpt-4o-2024-08-06`."""
    return _base_name(one) == _base_name(other)


def _base_name(model: str) -> str:
    return _VERSION.sub("", model.rpartition("/")[2])


def _count(attributes: Mapping[str, Any], names: tuple[str, ...]) -> int:
    value = next((attributes[name] for name in names if name in attributes), None)
    # Any library can set the attribute, with a boolean, a text or a negative number too.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS:
        return value
    return 0


def _amount(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        return None
    return amount if amount.is_finite() and amount >= 0 else None


def _text(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name)
    return value if isinstance(value, str) else ""
