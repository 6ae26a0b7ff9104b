"""Prices are exact, overrides win, and an unknown price is never 0."""

from decimal import Decimal

import pytest

from forge_otel.pricing import ModelPrice, PriceBook, parse_prices
from forge_otel.types import Usage

USAGE = Usage(input_uncached=1_000_000, cache_read=1_000_000, cache_write=1_000_000, output=1_000_000)


def test_an_override_is_exact() -> None:
    """Every kind of token has its price; cached ones without a price cost as much as input."""
    full = ModelPrice(
        input_usd=Decimal("2.5"), output_usd=Decimal(10), cache_read_usd=Decimal("0.1"), cache_write_usd=Decimal(3)
    )
    plain = ModelPrice(input_usd=Decimal("2.5"), output_usd=Decimal(10))
    book = PriceBook({"full": full, "plain": plain})
    assert [book.price(USAGE, model=name) for name in ("full", "plain")] == [Decimal("15.6"), Decimal("17.5")]


def test_an_unknown_model_has_no_price() -> None:
    """A listed model has one, also under an unknown provider."""
    book = PriceBook()
    assert book.price(USAGE, model="no-such-model") is None
    assert (book.price(Usage(output=1000), model="gpt-4o", provider="no-such-provider") or 0) > 0


def test_prices_are_parsed_from_json() -> None:
    """Numbers and strings; an empty text is an empty table."""
    prices = parse_prices('{"m": {"input_usd": "2.5", "output_usd": 10}}')
    assert prices["m"] == ModelPrice(input_usd=Decimal("2.5"), output_usd=Decimal(10))
    assert parse_prices("") == {}


@pytest.mark.parametrize("usd", ["-1", "NaN", "Infinity"])
def test_a_price_must_be_finite_and_not_negative(usd: str) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=usd):
        parse_prices(f'{{"m": {{"input_usd": "{usd}", "output_usd": "1"}}}}')


@pytest.mark.parametrize("provider", [None, "openai", "litellm"])
def test_a_model_with_its_provider_before_the_name_has_its_price(provider: str | None) -> None:
    """The price of an unknown model, or of one behind an unknown prefix, stays unknown."""
    book, usage = PriceBook(), Usage(input_uncached=1000)
    assert book.price(usage, model="openai/gpt-4o", provider=provider) == book.price(usage, model="gpt-4o")
    assert book.price(usage, model="gpt-4o") is not None
    for model in ("openai/none-such", "none-such/gpt-4o", "openai/", "/gpt-4o", "/" * 1000):
        assert book.price(usage, model=model, provider=provider) is None
