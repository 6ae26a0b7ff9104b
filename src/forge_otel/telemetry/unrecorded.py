"""Costs and failures that no record of a generation holds, for the totals of the dashboard."""

import threading
from decimal import Decimal
from typing import Any

__all__ = ["UnrecordedActivity"]


class UnrecordedActivity:
    """Model calls outside of generations and failed requests without one, since the start of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.model_calls = 0
        self.unpriced = 0
        """Model calls with an unknown cost."""
        self.cost_usd = Decimal(0)
        """Sum of the known costs."""
        self.failed_requests = 0

    def add_call(self, amount_usd: Decimal | None) -> None:
        """Count a model call; None for an unknown cost."""
        with self._lock:
            self.model_calls += 1
            if amount_usd is None:
                self.unpriced += 1
            else:
                self.cost_usd += amount_usd

    def add_failed_request(self) -> None:
        """Count a request that failed on the server."""
        with self._lock:
            self.failed_requests += 1

    def figures(self) -> dict[str, Any]:
        """Return the counts, JSON-ready."""
        with self._lock:
            return {
                "model_calls": self.model_calls,
                "unpriced": self.unpriced,
                "cost_usd": str(self.cost_usd),
                "failed_requests": self.failed_requests,
            }
