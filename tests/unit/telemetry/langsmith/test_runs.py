"""Conversion of spans to runs: types, contents, usage, threads, errors, and hidden parts."""

import base64
import json
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.trace import Status, StatusCode
from tests.unit.telemetry.bridge import Bridge, bridge

from forge_otel.context import Identity, bind_identity
from forge_otel.telemetry.langsmith.settings import HideOptions
from forge_otel.testing.langsmith.runs import LangSmithRun

LLM = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 50,
}
CANARY = "canary-7f3a"


def run_of(there: Bridge, attributes: dict[str, Any], name: str = "span") -> LangSmithRun:
    """End one span and return its run."""
    there.tracer.start_span(name, attributes=attributes).end()
    there.flush()
    return there.langsmith.runs()[-1]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"forge.span.kind": "agent", "gen_ai.operation.name": "invoke_agent"}, "chain"),
        ({"forge.span.kind": "step"}, "chain"),
        ({"forge.span.kind": "tool", "gen_ai.tool.name": "t"}, "tool"),
        ({"forge.span.kind": "retriever"}, "retriever"),
        ({"forge.span.kind": "embedding"}, "embedding"),
        ({"gen_ai.operation.name": "chat"}, "llm"),
        ({"gen_ai.operation.name": "invoke_workflow"}, "chain"),
        ({"gen_ai.operation.name": "execute_tool"}, "tool"),
        ({"gen_ai.operation.name": "embeddings"}, "embedding"),
        ({"langsmith.span.kind": "parser", "forge.span.kind": "tool"}, "parser"),
    ],
)
def test_spans_have_the_type_of_their_kind(attributes: dict[str, Any], expected: str) -> None:
    """LangSmith's own attribute takes precedence, then our kind, then the operation of the conventions."""
    with bridge() as there:
        assert run_of(there, attributes).type == expected


def test_a_model_call_has_usage_and_cost() -> None:
    """Token counts with their details, and the cost, as LangSmith's usage metadata."""
    with bridge() as there:
        run = run_of(there, {**LLM, "gen_ai.usage.cache_read.input_tokens": 40})
        assert dict(run.usage) == {
            "input_tokens": 100,
            "output_tokens": 50,
            "total_tokens": 150,
            "input_token_details": {"cache_read": 40, "cache_creation": 0},
            "total_cost": 0.5,
        }


def test_an_unknown_price_is_left_out() -> None:
    """No cost is not a cost of 0."""
    with bridge(price=lambda _call: None) as there:
        assert "total_cost" not in run_of(there, LLM).usage


def test_a_price_that_fails_does_not_cost_the_run() -> None:
    """The cost is unknown, and the tokens are still sent."""
    with bridge(price=lambda _call: Decimal(1) / 0) as there:
        usage = run_of(there, LLM).usage
        assert (usage["total_tokens"], "total_cost" in usage) == (150, False)


def test_usage_is_on_model_calls_only() -> None:
    """An agent that repeats the totals of its calls does not count them twice."""
    with bridge() as there:
        agent = {**LLM, "gen_ai.operation.name": "invoke_agent", "forge.span.kind": "agent"}
        assert run_of(there, agent).usage == {}


def test_contents_become_inputs_and_outputs() -> None:
    """Our attributes and those of the conventions; keys that name a secret are redacted again."""
    with bridge() as there:
        step = run_of(there, {"forge.span.kind": "step", "forge.input": '{"a":1}', "forge.output": "[2]"})
        assert (step.inputs, step.outputs) == ({"a": 1}, {"value": [2]})
        messages = json.dumps([{"role": "user", "content": "hi", "api_key": CANARY}])
        chat = run_of(there, {**LLM, "gen_ai.input.messages": messages})
        assert chat.inputs == {"messages": [{"role": "user", "content": "hi", "api_key": "[redacted]"}]}
        assert not there.langsmith.has_received(CANARY)


def test_thread_and_user_are_on_every_run() -> None:
    """Also on a root that started before session and user were known."""
    with bridge(run_filter=lambda _span: True) as there:
        with (
            there.tracer.start_as_current_span("root"),
            bind_identity(Identity(user_id="ada", session_id="s1")),
            there.tracer.start_as_current_span("agent"),
            there.tracer.start_as_current_span("chat"),
        ):
            pass
        there.flush()
        assert [(run.thread, run.user) for run in there.langsmith.runs()] == [("s1", "ada")] * 3


def test_an_error_status_without_an_event_is_an_error() -> None:
    """Some instrumentations set a status only, which LangSmith does not read."""
    with bridge(run_filter=lambda _span: True) as there:
        with there.tracer.start_as_current_span("a", attributes={"error.type": "500"}) as span:
            span.set_status(Status(StatusCode.ERROR, "it broke"))
        with pytest.raises(ValueError, match="so did this"), there.tracer.start_as_current_span("b"):
            raise ValueError("so did this")
        there.flush()
        assert [run.error for run in there.langsmith.runs()] == ["it broke", "so did this"]


def test_type_and_layer_are_tags_and_the_project_is_named() -> None:
    """Component type and cache layer can be filtered by in LangSmith."""
    with bridge(options={"project": "forge prod"}) as there:
        found = run_of(there, {"forge.span.kind": "agent", "forge.component.type": "a,b", "cache.layer": "L4"})
        assert (found.tags, found.project) == (("a b", "L4"), "forge prod")
        assert found.metadata["forge.component.type"] == "a,b"


@pytest.mark.parametrize(
    "name",
    [
        *("forge.input", "gen_ai.prompt", "gen_ai.input.messages", "gen_ai.system_instructions", "input.value"),
        *("gen_ai.prompt.0.content", "gen_ai.tool.call.arguments", "gen_ai.tool.definitions"),
        *("gen_ai.retrieval.query.text", "traceloop.entity.input", "llm.input_messages.0.message.content"),
        *("forge.output", "gen_ai.completion", "gen_ai.output.messages", "gen_ai.tool.call.result", "output.value"),
        *("gen_ai.retrieval.documents", "traceloop.entity.output", "llm.output_messages.0.message.content"),
        *("langsmith.attachments", "url.query", "url.full", "http.url", "http.target", "http.request.header.x-a"),
        *("http.response.header.x-a", "db.query.text", "my_api_key", "authorization"),
    ],
)
def test_hidden_contents_are_not_sent(name: str) -> None:
    """None is in any received byte, whichever attribute an instrumentation captures it in."""
    with bridge(run_filter=lambda _span: True, options={"hide": HideOptions(inputs=True, outputs=True)}) as there:
        run = run_of(there, {name: f'{{"text":"{CANARY}"}}'})
        assert (run.inputs, run.outputs) == (None, None)
        assert not there.langsmith.has_received(CANARY)


def test_hidden_contents_are_not_in_errors_and_events_either() -> None:
    """Messages of exceptions may quote contents and are hidden; the type of the error is sent."""
    with bridge(run_filter=lambda _span: True, options={"hide": HideOptions(inputs=True)}) as there:
        with there.tracer.start_as_current_span("a") as span:
            span.add_event("gen_ai.user.message", {"content": CANARY})
            span.record_exception(ValueError(CANARY))
            span.set_status(Status(StatusCode.ERROR, CANARY))
        there.flush()
        assert [run.error for run in there.langsmith.runs()] == ["ValueError"]
        assert not there.langsmith.has_received(CANARY)


def test_hidden_metadata_keeps_the_tree_and_the_costs() -> None:
    """Type, model and usage are sent; attributes of the application, user and resource are not."""
    with bridge(options={"hide": HideOptions(metadata=True)}) as there, bind_identity(Identity(user_id=CANARY)):
        run = run_of(there, {**LLM, "brand": CANARY, "forge.component.id": CANARY})
        assert (run.type, run.usage["total_cost"], dict(run.metadata)) == ("llm", 0.5, {})
        assert not there.langsmith.has_received(CANARY)


def test_screenshots_are_attached() -> None:
    """An attachment has a name, a type and base64 content; any other value is not sent."""
    picture = base64.b64encode(b"\x89PNG" + bytes(range(256))).decode()
    attachments = [{"name": "screen.png", "content": picture, "mime_type": "image/png"}]
    with bridge() as there:
        mixed = json.dumps([*attachments, {"name": "x", "content": f"no base64: {CANARY}", "mime_type": "text/plain"}])
        run_of(there, {"forge.span.kind": "tool", "langsmith.attachments": mixed})
        run_of(there, {"forge.span.kind": "tool", "langsmith.attachments": f'{{"password": "{CANARY}"}}'})
        sent = [
            pair.value.string_value
            for span in there.langsmith.spans
            for pair in span.attributes
            if pair.key == "langsmith.attachments"
        ]
        assert [json.loads(one) for one in sent] == [attachments]
        assert not there.langsmith.has_received(CANARY)
