"""What LangSmith makes of spans: types, contents, usage, threads, errors, and what it must not see."""

import base64
import json
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.trace import Status, StatusCode
from tests.unit.telemetry.bridge import Bridge, bridge
from tests.unit.telemetry.recorder import Recorder

from forge_otel.context import Identity, bind_identity
from forge_otel.errors import ConfigurationError
from forge_otel.names import Metric
from forge_otel.settings import Settings
from forge_otel.telemetry.langsmith.settings import DEFAULT_ENDPOINT, HideOptions, LangSmithOptions
from forge_otel.testing.langsmith.runs import LangSmithRun
from forge_otel.testing.langsmith.server import LangSmithStandIn

LLM = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 50,
}
CANARY = "canary-7f3a"


def run_of(there: Bridge, attributes: dict[str, Any], name: str = "span") -> LangSmithRun:
    """End one span, and return the run that it becomes."""
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
    """LangSmith's own attribute wins, then our kind, then the operation of the conventions."""
    with bridge() as there:
        assert run_of(there, attributes).type == expected


def test_a_model_call_has_usage_and_cost() -> None:
    """Tokens with their details and the price that we know, as LangSmith's usage metadata."""
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
    """It is unknown, and the tokens are still told."""
    with bridge(price=lambda _call: Decimal(1) / 0) as there:
        usage = run_of(there, LLM).usage
        assert (usage["total_tokens"], "total_cost" in usage) == (150, False)


def test_usage_is_on_model_calls_only() -> None:
    """An agent that repeats the totals of its calls does not double them."""
    with bridge() as there:
        agent = {**LLM, "gen_ai.operation.name": "invoke_agent", "forge.span.kind": "agent"}
        assert run_of(there, agent).usage == {}


def test_contents_become_inputs_and_outputs() -> None:
    """Ours and those of the conventions; keys that name a secret are redacted once more."""
    with bridge() as there:
        step = run_of(there, {"forge.span.kind": "step", "forge.input": '{"a":1}', "forge.output": "[2]"})
        assert (step.inputs, step.outputs) == ({"a": 1}, {"value": [2]})
        messages = json.dumps([{"role": "user", "content": "hi", "api_key": CANARY}])
        chat = run_of(there, {**LLM, "gen_ai.input.messages": messages})
        assert chat.inputs == {"messages": [{"role": "user", "content": "hi", "api_key": "[redacted]"}]}
        assert not there.langsmith.holds(CANARY)


def test_thread_and_user_are_on_every_run() -> None:
    """Also on a root that started before it was known who asks."""
    with bridge(keep=lambda _span: True) as there:
        with (
            there.tracer.start_as_current_span("root"),
            bind_identity(Identity(user_id="ada", session_id="s1")),
            there.tracer.start_as_current_span("agent"),
            there.tracer.start_as_current_span("chat"),
        ):
            pass
        there.flush()
        assert [(run.thread, run.user) for run in there.langsmith.runs()] == [("s1", "ada")] * 3


def test_an_error_without_an_event_is_one() -> None:
    """Servers and some instrumentations set a status only, which LangSmith does not read."""
    with bridge(keep=lambda _span: True) as there:
        with there.tracer.start_as_current_span("a", attributes={"error.type": "500"}) as span:
            span.set_status(Status(StatusCode.ERROR, "it broke"))
        with pytest.raises(ValueError, match="so did this"), there.tracer.start_as_current_span("b"):
            raise ValueError("so did this")
        there.flush()
        assert [run.error for run in there.langsmith.runs()] == ["it broke", "so did this"]


def test_type_and_layer_are_tags_and_the_project_is_named() -> None:
    """What people filter by in LangSmith."""
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
def test_what_is_hidden_never_leaves(name: str) -> None:
    """With contents hidden, none is in any byte that LangSmith got, wherever instrumentations put it."""
    with bridge(keep=lambda _span: True, options={"hidden": HideOptions(inputs=True, outputs=True)}) as there:
        run = run_of(there, {name: f'{{"text":"{CANARY}"}}'})
        assert (run.inputs, run.outputs) == (None, None)
        assert not there.langsmith.holds(CANARY)


def test_hidden_contents_are_not_in_errors_and_events_either() -> None:
    """Texts of exceptions quote what they could not read; the kind of the error stays."""
    with bridge(keep=lambda _span: True, options={"hidden": HideOptions(inputs=True)}) as there:
        with there.tracer.start_as_current_span("a") as span:
            span.add_event("gen_ai.user.message", {"content": CANARY})
            span.record_exception(ValueError(CANARY))
            span.set_status(Status(StatusCode.ERROR, CANARY))
        there.flush()
        assert [run.error for run in there.langsmith.runs()] == ["ValueError"]
        assert not there.langsmith.holds(CANARY)


def test_hidden_metadata_leaves_the_tree_and_the_bill() -> None:
    """Type, model and usage stay; what an application wrote, who asked and where it ran do not."""
    with bridge(options={"hidden": HideOptions(metadata=True)}) as there, bind_identity(Identity(user_id=CANARY)):
        run = run_of(there, {**LLM, "brand": CANARY, "forge.component.id": CANARY})
        assert (run.type, run.usage["total_cost"], dict(run.metadata)) == ("llm", 0.5, {})
        assert not there.langsmith.holds(CANARY)


FORMER = {
    "LANGCHAIN_API_KEY": "k",
    "LANGCHAIN_PROJECT": "p",
    "LANGCHAIN_ENDPOINT": "https://old",
    "LANGCHAIN_HIDE_INPUTS": "true",
    "LANGCHAIN_HIDE_OUTPUTS": "1",
    "LANGCHAIN_HIDE_METADATA": "yes",
    "LANGCHAIN_TRACING_SAMPLING_RATE": "0.25",
    "LANGCHAIN_TRACING_V2": "true",
}
FOUND = LangSmithOptions(
    api_key="k",
    project="p",
    endpoint="https://old",
    hidden=HideOptions(inputs=True, outputs=True, metadata=True),
    sampling_rate=0.25,
)


def test_former_names_are_read() -> None:
    """All of them, as long as the present one is not set."""
    assert LangSmithOptions.from_env(FORMER) == FOUND
    present = {name.replace("LANGCHAIN", "LANGSMITH"): value for name, value in FORMER.items()}
    assert LangSmithOptions.from_env(present) == FOUND
    for name in present:
        both = {**dict.fromkeys(FORMER, "0"), **FORMER, name.replace("LANGSMITH", "LANGCHAIN"): "0", **present}
        assert LangSmithOptions.from_env(both) == FOUND


def test_the_environment_is_read_as_langsmith_reads_it() -> None:
    """No key or an explicit no means no bridge; the key alone means LangSmith's own cloud and everything shown."""
    assert LangSmithOptions.from_env({"LANGSMITH_API_KEY": "k"}) == LangSmithOptions(
        api_key="k", endpoint=DEFAULT_ENDPOINT, project="default", hidden=HideOptions(), sampling_rate=1.0
    )
    for no_key in ({}, {"LANGSMITH_API_KEY": ""}, {"LANGSMITH_API_KEY": " "}):
        assert LangSmithOptions.from_env(no_key) is None
    for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"):
        assert LangSmithOptions.from_env({"LANGSMITH_API_KEY": "k", name: "false"}) is None


@pytest.mark.parametrize("answer", ["", "0", "false", "No", "off"])
def test_only_a_clear_no_shows(answer: str) -> None:
    """A misspelt yes must not publish."""
    found = LangSmithOptions.from_env({"LANGSMITH_API_KEY": "k", "LANGSMITH_HIDE_INPUTS": answer})
    misspelt = LangSmithOptions.from_env({"LANGSMITH_API_KEY": "k", "LANGSMITH_HIDE_INPUTS": "ture"})
    assert found is not None
    assert misspelt is not None
    assert (found.hidden.inputs, misspelt.hidden.inputs) == (False, True)


def test_screenshots_are_attached() -> None:
    """As LangSmith's table has it: a name, a type and the content in base64; what is none of that stays here."""
    picture = base64.b64encode(b"\x89PNG" + bytes(range(256))).decode()
    attachments = [{"name": "screen.png", "content": picture, "mime_type": "image/png"}]
    with bridge() as there:
        told = json.dumps([*attachments, {"name": "x", "content": f"no base64: {CANARY}", "mime_type": "text/plain"}])
        run_of(there, {"forge.span.kind": "tool", "langsmith.attachments": told})
        run_of(there, {"forge.span.kind": "tool", "langsmith.attachments": f'{{"password": "{CANARY}"}}'})
        sent = [
            pair.value.string_value
            for span in there.langsmith.spans
            for pair in span.attributes
            if pair.key == "langsmith.attachments"
        ]
        assert [json.loads(one) for one in sent] == [attachments]
        assert not there.langsmith.holds(CANARY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"LANGSMITH_TRACING_SAMPLING_RATE": "often"},
        {"LANGSMITH_TRACING_SAMPLING_RATE": "1.5"},
        {"LANGSMITH_ENDPOINT": "ftp://there"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, str]) -> None:
    """The error names the variable, and not the key."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))) as caught:
        LangSmithOptions.from_env({"LANGSMITH_API_KEY": CANARY, **wrong})
    assert CANARY not in str(caught.value)


def test_telemetry_bridges_when_there_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decorated functions become runs, priced; the ledger is among the metrics; shutting down sends what waits."""
    with LangSmithStandIn(api_key="key") as langsmith:
        monkeypatch.setenv("LANGSMITH_API_KEY", "key")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", langsmith.url)
        recorder = Recorder(Settings(capture_content=True))
        with recorder.spans.span("writer", kind="agent"), recorder.tracers.get_tracer("t").start_as_current_span("x"):
            recorder.spans.record_usage(1_000_000, 0, model="gpt-4o", provider="openai", cost_usd=Decimal(1))
        assert recorder.values(Metric.EXPORT_PRODUCED) == {("langsmith",): 2}
        recorder.telemetry.shutdown()
        recorder.close()
        assert [run.name for run in langsmith.runs()] == ["invoke_agent writer"]


def test_no_key_means_no_bridge(caplog: pytest.LogCaptureFixture) -> None:
    """One line says so, and nothing is sent or counted."""
    caplog.set_level("INFO", logger="forge_otel.telemetry.providers")
    recorder = Recorder()
    with recorder.spans.span("writer", kind="agent"):
        pass
    assert recorder.values(Metric.EXPORT_PRODUCED) == {}
    recorder.close()
    assert sum("LANGSMITH_API_KEY" in record.getMessage() for record in caplog.records) == 1
