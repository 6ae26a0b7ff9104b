"""What a span says of a model call: its usage as a partition, its models, its provider.

Pure: attributes in, facts out. The provider and the counts are read under their present, their coming and their former
names, because instrumentations of all ages are in use.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypedDict

from forge_otel.names import Attr
from forge_otel.types import Usage

__all__ = ["USAGE_ATTRIBUTES", "ModelCall", "UsageDetails", "partition", "read_call", "reported_call", "same_model"]

_MAX_TOKENS: Final = 2**40
# The first that is there counts.
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
"""A span with any of these attributes tells of a model call."""

# What providers put behind a model's name to name one of its versions.
_VERSION: Final = re.compile(r"[-@:](\d{4}-\d{2}-\d{2}|\d{4,8}|latest)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One call to a model.

    Args:
        models: names of the model, most exact first: what answered, then what was asked for.
        cost_usd: what the provider says it cost; wins over any price table.
    """

    usage: Usage
    models: tuple[str, ...] = ()
    provider: str = ""
    cost_usd: Decimal | None = None

    @property
    def model(self) -> str:
        """The name that was asked for, which is the stable one."""
        return self.models[-1] if self.models else ""


class UsageDetails(TypedDict, total=False):
    """What a program may say of a model call beside its two totals."""

    model: str
    """As the price list knows it."""
    provider: str
    """For example ``"openai"``."""
    cost_usd: Decimal | None
    """What the provider charged, where it says so; wins over the price list."""
    cache_read_tokens: int
    """Sent tokens that the provider had in its cache."""
    cache_write_tokens: int
    """Sent tokens that it put there."""
    reasoning_tokens: int
    """Received tokens that were not shown."""


def reported_call(input_tokens: int, output_tokens: int, about: UsageDetails) -> ModelCall:
    """Return the model call that a program tells of."""
    model = about.get("model", "")
    return ModelCall(
        usage=partition(
            input_tokens,
            output_tokens,
            cache_read=about.get("cache_read_tokens", 0),
            cache_write=about.get("cache_write_tokens", 0),
            reasoning=about.get("reasoning_tokens", 0),
        ),
        models=(model,) if model else (),
        provider=about.get("provider", ""),
        cost_usd=about.get("cost_usd"),
    )


def partition(
    input_tokens: int, output_tokens: int, *, cache_read: int = 0, cache_write: int = 0, reasoning: int = 0
) -> Usage:
    """Split inclusive counts, as the conventions define them, so that no token is in two numbers.

    A provider that reports cached or reasoning tokens beside its totals instead of inside them is recognised where the
    part is larger than the whole.
    """
    cached = cache_read + cache_write
    return Usage(
        input_uncached=input_tokens - cached if cached <= input_tokens else input_tokens,
        cache_read=cache_read,
        cache_write=cache_write,
        output=output_tokens - reasoning if reasoning <= output_tokens else output_tokens,
        reasoning=reasoning,
    )


def read_call(attributes: Mapping[str, Any]) -> ModelCall | None:
    """Return the model call that the attributes of an ended span tell of, None where they tell of no usage."""
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
    """Tell whether two names may mean one model: `openai/gpt-4o`, `gpt-4o` and `gpt-4o-2024-08-06` do."""
    return _bare(one) == _bare(other)


def _bare(model: str) -> str:
    return _VERSION.sub("", model.rpartition("/")[2])


def _count(attributes: Mapping[str, Any], names: tuple[str, ...]) -> int:
    value = next((attributes[name] for name in names if name in attributes), None)
    # Attributes come from anybody: a boolean, a text or a negative number is not a count.
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
