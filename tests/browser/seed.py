"""A service with a past: generations of every kind, one trace, a sink that waits, a service that is away."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.unit.web.support import TOKEN, SmallRuntime

from forge_otel.types import Cost, Record, Usage

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
EVIL = '<img src=x onerror="document.title=1">'
AGENTS = ("token_extractor", "requirement_proposer", "pattern_retriever", "code_generator", "quality_validator")


@dataclass(frozen=True, kw_only=True)
class Span:
    """One row of the waterfall."""

    span_id: str
    parent_id: str
    name: str
    kind: str
    started_s: float
    duration_s: float
    error_type: str | None = None


def seeded(count: int = 60) -> SmallRuntime:
    """A runtime that remembers `count` generations."""
    runtime = SmallRuntime(admin_token=TOKEN)
    dice = random.Random(7)
    runtime.recent.kept = [_record(number, dice) for number in range(count)]
    runtime.telemetry.recent_traces.rows[TRACE_ID] = _trace()
    if count:
        runtime.figures = _figures(runtime.recent.kept)
        runtime.report = {
            "status": "warn",
            "checks": {
                "redis:responseTime": [{"componentId": "redis", "status": "pass", "observedValue": 0.42}],
                "postgres:responseTime": [{"componentId": "postgres", "status": "pass", "observedValue": 1.9}],
                "s3:responseTime": [
                    {
                        "componentId": "s3",
                        "status": "warn",
                        "output": "TimeoutError",
                        "withoutIt": "artifacts wait on local disk and are archived later",
                    }
                ],
            },
        }
    return runtime


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


def _trace() -> list[Span]:
    spans = [
        Span(span_id="1", parent_id="", name="POST /generate", kind="server", started_s=100.0, duration_s=61.2),
        Span(
            span_id="2",
            parent_id="1",
            name="invoke_workflow generate",
            kind="internal",
            started_s=100.01,
            duration_s=61.1,
        ),
    ]
    started_s = 100.05
    for number, (agent, duration_s) in enumerate(zip(AGENTS, (2.1, 8.4, 1.2, 41.0, 7.9), strict=True)):
        span_id = f"a{number}"
        spans.append(
            Span(
                span_id=span_id,
                parent_id="2",
                name=f"invoke_agent {agent}",
                kind="agent",
                started_s=started_s,
                duration_s=duration_s,
            )
        )
        if agent in {"requirement_proposer", "code_generator"}:
            failed = "RateLimitError" if agent == "requirement_proposer" else None
            spans.append(
                Span(
                    span_id=f"l{number}",
                    parent_id=span_id,
                    name="chat gpt-5.1",
                    kind="client",
                    started_s=started_s + 0.2,
                    duration_s=duration_s - 0.4,
                    error_type=failed,
                )
            )
        started_s += duration_s
    return spans


def _figures(records: list[Record]) -> dict[str, object]:
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
