"""Records, sinks and waiting for the tests of this room."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from forge_otel._internal.ids import new_id
from forge_otel.types import Cost, Record, Step, Usage


def record(**changes: Any) -> Record:
    """A generation of a button that cost 42 cents, with these changes."""
    usual: dict[str, Any] = {
        "id": new_id(),
        "created_at": datetime(2026, 3, 1, 12, 30, 15, 123456, UTC),
        "duration_s": 58.5,
        "outcome": "ok",
        "pipeline": "components",
        "pipeline_version": "1",
        "component_type": "button",
        "component_id": "button-1",
        "key": "a" * 64,
        "figma_key": "FiGmA",
        "source": "L4",
        "cost_usd": Decimal("0.42"),
        "costs": (
            Cost(
                api="openai",
                model="gpt-5-mini",
                agent="code_generator",
                usage=Usage(input_uncached=1000, cache_read=500, output=300, reasoning=20),
                amount_usd=Decimal("0.42"),
            ),
            Cost(api="figma"),
        ),
        "steps": (Step(name="code_generator", kind="agent", started_s=1.5, duration_s=40.25),),
        "misses": {"L1": "cold", "L2": "threshold"},
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "artifacts": {"component.tsx": "export {}", "screenshot.png": b"\x89PNG\x00"},
        "artifact_refs": {"component.tsx": "components/button-1/component.tsx"},
    }
    return Record(**(usual | changes))


class ListSink:
    """Keeps what it is handed; while `fault` is set it raises that."""

    name = "list"

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.fault: Exception | None = None
        self.calls = 0

    async def deliver(self, records: Sequence[Record], /) -> None:
        self.calls += 1
        if self.fault is not None:
            raise self.fault
        self.records.extend(records)

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self.records]


async def eventually(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Wait until `condition` holds, and fail if that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {timeout_s} s"
        await asyncio.sleep(0.005)
