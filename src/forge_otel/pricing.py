"""Prices of model calls in USD, as exact decimals.

The override table has precedence over the offline data of `genai-prices`. An unknown price is None, never 0.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from forge_otel.types import Usage

__all__ = ["ModelPrice", "PriceBook", "parse_prices"]

_MILLION: Final = Decimal(1_000_000)
# Providers that make the models they serve: behind another prefix the same name may have another price.
_VENDORS: Final = frozenset({"anthropic", "google", "mistral", "openai"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """Price of a model in USD per million tokens; cached tokens without a price of their own cost as much as input."""

    input_usd: Decimal
    output_usd: Decimal
    cache_read_usd: Decimal | None = None
    cache_write_usd: Decimal | None = None

    def __post_init__(self) -> None:
        for price in (self.input_usd, self.output_usd, self.cache_read_usd, self.cache_write_usd):
            if price is not None and not (price.is_finite() and price >= 0):
                raise ValueError(f"a price must be 0 or more USD per million tokens, not {price}")

    def of(self, usage: Usage) -> Decimal:
        """Return the price of one call in USD."""
        read = self.input_usd if self.cache_read_usd is None else self.cache_read_usd
        write = self.input_usd if self.cache_write_usd is None else self.cache_write_usd
        total = (
            usage.input_uncached * self.input_usd
            + usage.cache_read * read
            + usage.cache_write * write
            + usage.output_tokens * self.output_usd
        )
        return total / _MILLION


def parse_prices(text: str) -> Mapping[str, ModelPrice]:
    """Parse `{"model": {"input_usd": "2.5", "output_usd": "10"}}`, in USD per million tokens.

    Raises:
        ValueError, TypeError, AttributeError, decimal.InvalidOperation: `text` has another form.
    """
    table = json.loads(text or "{}")
    return MappingProxyType(
        {
            model: ModelPrice(**{name: Decimal(str(usd)) for name, usd in price.items()})
            for model, price in table.items()
        }
    )


class PriceBook:
    """Prices of models.

    Args:
        overrides: price by model name; has precedence over `genai-prices`.
    """

    def __init__(self, overrides: Mapping[str, ModelPrice] | None = None) -> None:
        self._overrides = dict(overrides or {})

    def price(self, usage: Usage, *, model: str, provider: str | None = None) -> Decimal | None:
        """Return the price of `usage` in USD, or None if the model is unknown."""
        override = self._overrides.get(model)
        if override is not None:
            return override.of(usage)
        return _listed(usage, model, provider)


@lru_cache(maxsize=1024)
def _listed(usage: Usage, model: str, provider: str | None) -> Decimal | None:
    # Imported on first use: loading the price table takes some 100 ms, which only model calls should cost.
    from genai_prices import Usage as ListedUsage
    from genai_prices import calc_price

    tokens = ListedUsage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output_tokens,
    )
    try:
        return calc_price(tokens, model_ref=model, provider_id=provider).total_price
    except LookupError:
        # The table may list the model but not the gateway that serves it.
        if provider is not None:
            return _listed(usage, model, None)
        # Gateways and frameworks put the provider before the name, as in `openai/gpt-4o`.
        vendor, _, name = model.partition("/")
        return _listed(usage, name, vendor) if name and vendor in _VENDORS else None
