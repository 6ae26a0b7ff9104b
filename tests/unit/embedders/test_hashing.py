"""Feature hashing: stable vectors, near for shared words."""

import math

import pytest

from forge_otel.embedders.hashing import HashingEmbedder, open_url
from forge_otel.errors import ConfigurationError


async def similarity(one: str, other: str) -> float:
    first, second = await HashingEmbedder().embed([one, other])
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


async def test_a_vector_has_length_one_and_is_the_same_on_every_machine() -> None:
    """Features are hashed with BLAKE2, not with the process's own hash; a text without words is the zero vector."""
    vector, empty = await HashingEmbedder(dimensions=64).embed(["Show a red badge", ""])
    assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-6)
    assert not any(empty)
    assert [place for place, value in enumerate(vector) if abs(value) > 0.3] == [31, 36, 45]


async def test_shared_words_make_texts_near() -> None:
    """Synonyms, order and politeness hardly matter; another subject does."""
    text = "Show a spinner when the form is loading"
    assert await similarity(text, "Please display a spinner when the form is loading") > 0.92
    assert await similarity(text, "When the form is loading, show a spinner") > 0.92
    assert await similarity(text, "Use a blue border of 2px") < 0.3


def test_the_url_sets_the_dimensions() -> None:
    """Vectors of another size have another name, so that they are never compared."""
    assert open_url("hashing://?dimensions=1024").name != open_url("hashing://").name
    with pytest.raises(ConfigurationError, match="between 16 and 8192"):
        open_url("hashing://?dimensions=9")
