"""What an answer is worth to a store that evicts by that."""

from collections.abc import Sequence
from typing import Any

from forge_otel.types import Reply, Store

__all__ = ["eviction_hints"]


def eviction_hints(reply: Reply, needs: Sequence[str], store: Store) -> dict[str, Any]:
    """Return the options of `store.set` that say what `reply` is worth; none where the store does not ask.

    Args:
        reply: what is stored; one that cost nothing is not known to be cheap.
        needs: keys of the store without which it would be of no use.
        store: one that asks has `is_cost_aware`.
    """
    if not reply.cost_usd or not getattr(store, "is_cost_aware", False):
        return {}
    return {"worth_usd": float(reply.cost_usd), "needs": needs}
