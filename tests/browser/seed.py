"""A service with recorded generations of every kind, one trace, a failing sink and an unavailable service."""

import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from tests.unit.web.support import TOKEN, InMemoryForge

from forge_otel._runtime.login_tickets import LoginTickets
from forge_otel._runtime.operations import Operations
from forge_otel.names import Attr
from forge_otel.types import Cost, Record, Usage

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
EVIL = '<img src=x onerror="document.title=1">'
AGENTS = ("token_extractor", "requirement_proposer", "pattern_retriever", "code_generator", "quality_validator")


HEALTH: Mapping[str, Any] = {
    "status": "warn",
    "checks": {
        "redis:responseTime": [{"componentId": "redis", "status": "pass", "observedValue": 0.42}],
        "postgres:responseTime": [{"componentId": "postgres", "status": "pass", "observedValue": 1.9}],
        "s3:responseTime": [
            {
                "componentId": "s3",
                "status": "warn",
                "output": "TimeoutError",
                "withoutIt": "artifacts are kept on local disk and archived later",
            }
        ],
    },
}


class SeededOperations(Operations):
    """Operations with fixed figures and a fixed health report."""

    def __init__(self, figures: dict[str, Any]) -> None:
        self.login_tickets = LoginTickets()
        self._figures = figures

    async def summary(self) -> dict[str, Any]:
        return self._figures

    def health_report(self) -> dict[str, Any]:
        return dict(HEALTH)


async def seeded(count: int = 60) -> InMemoryForge:
    """Return a forge that remembers `count` generations."""
    forge = InMemoryForge(admin_token=TOKEN)
    dice = random.Random(7)
    records = [_record(number, dice) for number in range(count)]
    await forge.recent.deliver(records)
    for span in _spans():
        forge.telemetry.recent_traces.on_end(span)
    if count:
        forge.operations = SeededOperations(_figures(records))
    return forge


def _record(number: int, dice: random.Random) -> Record:
    source = dice.choice(["L1"] * 5 + ["L2"] * 2 + ["L3"] + ["collapsed"] + ["L4"] * 4)
    failed = number % 17 == 5
    is_full = source == "L4"
    cost = Decimal("0.4213") if is_full else Decimal(0)
    return Record(
        id=f"0198c0de-{number:04d}",
        created_at=datetime.now(UTC) - timedelta(seconds=(60 - number) * 11),
        duration_s=dice.uniform(38, 84) if is_full else dice.uniform(0.002, 0.03),
        outcome="error" if failed else "ok",
        pipeline="generate",
        pipeline_version="1",
        component_type=dice.choice(["button", "card", "modal", "table", "navbar", "form"]),
        component_id=f"component-{number}",
        component_name=EVIL if number == 59 else f"Checkout / primary action {number}",
        key="5f" * 32,
        figma_key="aBcD1234eFgH",
        source="" if failed else source,
        cost_usd=cost,
        saved_usd=Decimal(0) if is_full or failed else Decimal("0.4213"),
        costs=(
            Cost(
                api="openai",
                model="gpt-5.1",
                agent="code_generator",
                usage=Usage(input_uncached=5120, output=2310),
                amount_usd=Decimal("0.3120"),
            ),
            Cost(api="openai", model="private", agent="requirement_proposer", usage=Usage(input_uncached=900)),
        ),
        misses={"L1": "cold", "L2": "threshold"} if is_full else {},
        trace_id=TRACE_ID,
        error_type="GenerationTimeout" if failed else None,
        error_message="the pipeline did not finish in time" if failed else None,
        quality_score=0.93,
        artifact_refs={"component.tsx": f"components/component-{number}/component.tsx"},
    )


def _spans() -> list[ReadableSpan]:
    """Return the spans of one generation of 61 s, the root last."""
    started_s = time.time() - 70
    children = []
    agent_s = started_s + 0.05
    for number, (agent, duration_s) in enumerate(zip(AGENTS, (2.1, 8.4, 1.2, 41.0, 7.9), strict=True)):
        span_id = 10 + number
        children.append(_span(span_id, 2, f"invoke_agent {agent}", agent_s, duration_s, kind="agent"))
        if agent in {"requirement_proposer", "code_generator"}:
            error = "RateLimitError" if agent == "requirement_proposer" else None
            children.append(_span(20 + number, span_id, "chat gpt-5.1", agent_s + 0.2, duration_s - 0.4, error=error))
        agent_s += duration_s
    return [
        *children,
        _span(2, 1, "invoke_workflow generate", started_s + 0.01, 61.1, kind="internal"),
        _span(1, None, "POST /generate", started_s, 61.2, kind="server"),
    ]


def _span(
    span_id: int,
    parent_id: int | None,
    name: str,
    started_s: float,
    duration_s: float,
    *,
    kind: str = "client",
    error: str | None = None,
) -> ReadableSpan:
    def context(number: int) -> SpanContext:
        return SpanContext(int(TRACE_ID, 16), number, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    return ReadableSpan(
        name,
        context=context(span_id),
        parent=None if parent_id is None else context(parent_id),
        attributes={Attr.SPAN_KIND: kind, **({} if error is None else {Attr.ERROR_TYPE: error})},
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.UNSET if error is None else StatusCode.ERROR),
        start_time=int(started_s * 1e9),
        end_time=int((started_s + duration_s) * 1e9),
    )


def _figures(records: Sequence[Record]) -> dict[str, Any]:
    by_source: dict[str, int] = {}
    for record in records:
        if record.source:
            by_source[record.source] = by_source.get(record.source, 0) + 1
    errors = sum(record.outcome == "error" for record in records)
    hits = len(records) - by_source.get("L4", 0) - errors
    return {
        "generations": len(records),
        "by_source": by_source,
        "hit_rate": hits / len(records),
        "errors": errors,
        "cost_usd": str(sum(record.cost_usd for record in records)),
        "saved_usd": str(sum(record.saved_usd for record in records)),
        "full": {"p50_s": 61.2, "p95_s": 82.4},
        "cached": {"p50_s": 0.0061, "p95_s": 0.0274},
        "outbox": {
            "durable": True,
            "sinks": {
                "archive": {
                    "delivered": 41,
                    "waiting": 19,
                    "dropped": {},
                    "is_up": False,
                    "last_error": "TimeoutError",
                },
                "database": {"delivered": 60, "waiting": 0, "dropped": {}, "is_up": True},
            },
        },
        "breakers": [
            {"name": "openai", "state": "closed", "successes": 214, "rejects_for_s": 0.0},
            {"name": "s3", "state": "open", "successes": 41, "rejects_for_s": 12.4},
        ],
        "scope": "database",
        "budget": {
            "usd": {"used": "12.00", "limit": "12.00"},
            "tokens": {"used": "310000", "limit": "5000000"},
            "mode": "refuse",
            "resets_in_s": 3600.0,
        },
    }
