"""A run reports its progress and hands its outcome to every waiting caller."""

from datetime import UTC, datetime

from tests.unit.telemetry.recorder import button_call

from forge_otel.context import Generation
from forge_otel.layers.single_flight.progress import decode_event
from forge_otel.layers.single_flight.run import Run, RunOutcome
from forge_otel.types import GenerationResult, Reply


async def test_a_started_run_publishes_the_progress_of_its_generation() -> None:
    """From `started` to the terminal event; what happens after the end is not published."""
    generation = Generation(id="g", started_at=datetime.now(UTC), started_s=0.0)
    run = Run(button_call(), generation)
    run.start(5)
    generation.record_step_start("writer", "agent")
    outcome = RunOutcome(reply=Reply(result=GenerationResult(code="x"), origin_id="g"))
    run.finish(outcome)
    generation.record_step_start("late", "agent")
    events = [decode_event(event) for event in run.event_log.events]
    assert [event.kind for event in events] == ["started", "step_started", "done"]
    assert events[0].facts["generation_id"] == "g"
    assert (await run.outcome, run.is_local) == (outcome, True)


async def test_a_run_that_never_started_publishes_nothing() -> None:
    """Another process ran the pipeline, and publishes its own events."""
    run = Run(button_call(), None)
    run.finish(RunOutcome(error=ValueError("no"), is_remote=True))
    assert (run.event_log.events, run.is_local) == ([], False)
    assert isinstance((await run.outcome).error, ValueError)
