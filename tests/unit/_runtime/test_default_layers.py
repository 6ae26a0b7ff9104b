"""The default layers and their order."""

from collections.abc import Callable
from typing import Any

import pytest

from forge_otel import Forge


def _names(forge: Forge) -> list[str]:
    return [type(layer).__name__ for layer in forge._default.layers]


def test_the_caches_come_before_the_budget(new_forge: Callable[..., Forge]) -> None:
    """A hit costs nothing; a miss is generated once, within the budget and the time limit."""
    assert _names(new_forge()) == [
        "ExactCacheLayer",
        "SingleFlightLayer",
        "SemanticCacheLayer",
        "PatternCacheLayer",
        "BudgetLayer",
        "TimeoutLayer",
    ]


def test_without_vectors_there_is_no_semantic_cache(new_forge: Callable[..., Forge]) -> None:
    """The other layers stay."""
    assert "SemanticCacheLayer" not in _names(new_forge(vector_url=None))


@pytest.mark.parametrize(("lease_s", "has_election"), [(None, False), (10.0, True)])
def test_processes_elect_a_leader_only_with_leases(
    new_forge: Callable[..., Forge], lease_s: Any, has_election: bool
) -> None:
    """Without them each process generates independently."""
    single_flight: Any = new_forge(single_flight_lease_s=lease_s)._default.single_flight
    assert (single_flight._election is not None) is has_election


async def test_layers_are_closed_before_their_stores(new_forge: Callable[..., Forge]) -> None:
    """Write-behind and budget still write to the store when they are closed."""
    forge = new_forge(cache_url="redis://127.0.0.1:1/0")
    names = [type(resource).__name__ for resource in forge._default.resources]
    assert names.index("RedisStore") < names.index("BudgetLayer") < names.index("WriteBehindQueue")
