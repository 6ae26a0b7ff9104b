"""A finished span as LangSmith should see it. Pure: spans are read, and new ones are made.

Runs on the export thread. Contents are redacted once more there, because other instrumentations capture without it.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, format_span_id

from forge_otel.names import Attr, Operation
from forge_otel.telemetry.genai.usage import ModelCall, read_call
from forge_otel.telemetry.langsmith.names import LangSmithAttr
from forge_otel.telemetry.langsmith.settings import HideOptions
from forge_otel.telemetry.langsmith.tree import ResolvedSpan
from forge_otel.telemetry.processor_hub import attributes_of
from forge_otel.telemetry.redaction import scrub
from forge_otel.telemetry.spans.capture import REDACTED, redact

__all__ = ["Price", "as_run", "run_type"]

Price = Callable[[ModelCall], Decimal | None]
"""What a model call cost in USD; None where that is not known."""

logger = logging.getLogger(__name__)

# LangSmith has no agents: its own integrations call them chains.
_TYPE_OF_KIND: Final[Mapping[str, str]] = {
    **{name: name for name in ("llm", "chain", "tool", "retriever", "embedding", "prompt", "parser")},
    **dict.fromkeys(("agent", "step", "task", "workflow"), "chain"),
}
_TYPE_OF_OPERATION: Final[Mapping[str, str]] = {
    **dict.fromkeys((Operation.CHAT, Operation.TEXT_COMPLETION, Operation.GENERATE_CONTENT), "llm"),
    Operation.EMBEDDINGS: "embedding",
    Operation.RETRIEVAL: "retriever",
    Operation.EXECUTE_TOOL: "tool",
}
_KINDS: Final = (LangSmithAttr.RUN_TYPE, Attr.SPAN_KIND, "openinference.span.kind", "traceloop.span.kind")
# Where instrumentations put contents; the first that is there becomes the run's inputs or outputs.
_INPUTS: Final = (
    LangSmithAttr.PROMPT,
    Attr.INPUT,
    "gen_ai.input.messages",
    "gen_ai.tool.call.arguments",
    "input.value",
)
_OUTPUTS: Final = (
    LangSmithAttr.COMPLETION,
    Attr.OUTPUT,
    "gen_ai.output.messages",
    "gen_ai.tool.call.result",
    "output.value",
)
_MESSAGES: Final = frozenset({"gen_ai.input.messages", "gen_ai.output.messages"})
_INPUT_NAME: Final = re.compile(
    r"gen_ai\.(prompt|input\.messages|system_instructions|tool\.(definitions|call\.arguments)|retrieval\.query)"
    r"|forge\.input$|input\.(value|mime)|llm\.(input|prompt)|traceloop\.entity\.input|langsmith\.attachments"
)
_OUTPUT_NAME: Final = re.compile(
    r"gen_ai\.(completion|output\.messages|tool\.call\.result|retrieval\.documents)"
    r"|forge\.output$|output\.(value|mime)|llm\.(output|completion)|traceloop\.entity\.output|langsmith\.attachments"
)
# They hold what callers sent, secrets included, and LangSmith has no field for them.
_NEVER: Final = re.compile(
    r"url\.|http\.(url|target|request\.header|response\.header)|db\.|client\.|user_agent\.|net\."
)
# All that is left where metadata is hidden.
_STRUCTURE: Final = re.compile(
    r"langsmith\.(span\.kind|usage_metadata)$|gen_ai\.(operation|provider|agent|tool)\.name$|gen_ai\.system$"
    r"|gen_ai\.(request|response)\.model$|gen_ai\.usage\.|gen_ai\.(prompt|completion)$|error\.type$"
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*+={0,2}")
# LangSmith takes some 20 MB in one request.
_MAX_ATTACHMENTS_CHARS: Final = 10 * 2**20
_USAGE: Final = "gen_ai.usage."
_SCALARS: Final = (str, bool, int, float)
_EXCEPTION: Final = "exception"


def as_run(release: ResolvedSpan, hidden: HideOptions, price: Price) -> ReadableSpan:
    """Return the span of `release` with LangSmith's attributes, below the parent that LangSmith will know.

    Args:
        hidden: what is left out.
        price: of its model call.
    """
    span = release.span
    links = [Link(_bare(link.context), None if hidden.metadata else _redacted(link.attributes)) for link in span.links]
    if release.remote_parent is not None:
        links.append(Link(_bare(release.remote_parent)))
    context = span.get_span_context()
    return ReadableSpan(
        name=scrub(span.name),
        context=None if context is None else _bare(context),
        parent=None if release.parent is None else _bare(release.parent),
        resource=Resource.get_empty() if hidden.metadata else _resource(span.resource),
        attributes=_attributes(release, hidden, price),
        events=_events(span, hidden),
        links=links,
        kind=span.kind,
        status=_status(span.status, hidden),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _bare(context: SpanContext) -> SpanContext:
    """Leave out the trace state, which callers write as they like."""
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


@lru_cache(maxsize=16)
def _resource(resource: Resource) -> Resource:
    """Redact once for all spans, which are also encoded together where theirs is the same."""
    return Resource(_redacted(resource.attributes), resource.schema_url)


def _redacted(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    redacted: dict[str, Any] = redact(dict(attributes or {}))
    return {name: _plain(value) for name, value in redacted.items() if value is not None}


def _status(status: Status, hidden: HideOptions) -> Status:
    if hidden.any_text or not status.description:
        return Status(status.status_code)
    return Status(status.status_code, scrub(status.description))


def run_type(attributes: Mapping[str, Any]) -> str:
    """Return LangSmith's type of a run; a span that nobody gave a kind is a chain."""
    for name in _KINDS:
        found = _TYPE_OF_KIND.get(str(attributes.get(name, "")).lower())
        if found is not None:
            return found
    return _TYPE_OF_OPERATION.get(str(attributes.get(Attr.GEN_AI_OPERATION)), "chain")


def _attributes(release: ResolvedSpan, hidden: HideOptions, price: Price) -> dict[str, Any]:
    found = attributes_of(release.span)
    kind = run_type(found)
    contents = _contents(found, hidden)
    # Chosen first: what is not sent, such as a screenshot of megabytes, is not looked through.
    run: dict[str, Any] = redact({name: value for name, value in found.items() if _may_be_sent(name)})
    if not hidden.any_content and (attachments := _attachments(found.get(LangSmithAttr.ATTACHMENTS))):
        run[LangSmithAttr.ATTACHMENTS] = attachments
    run |= contents | {LangSmithAttr.RUN_TYPE: kind} | _metadata(release, run)
    # LangSmith adds what is below to what is above: a total that is repeated above a model call would count twice.
    run = {name: value for name, value in run.items() if kind == "llm" or not name.startswith(_USAGE)}
    call = read_call(found) if kind == "llm" else None
    if call is not None:
        run |= _usage(call, _cost_usd(call, price))
    if hidden.metadata:
        run = {name: value for name, value in run.items() if _STRUCTURE.match(name)}
    return {name: _plain(value) for name, value in run.items() if value is not None}


@lru_cache(maxsize=1024)
def _may_be_sent(name: str) -> bool:
    return not (_NEVER.match(name) or _INPUT_NAME.match(name) or _OUTPUT_NAME.match(name))


def _contents(found: Mapping[str, Any], hidden: HideOptions) -> dict[str, str]:
    contents = {}
    for target, sources, is_hidden in (
        (LangSmithAttr.PROMPT, _INPUTS, hidden.inputs),
        (LangSmithAttr.COMPLETION, _OUTPUTS, hidden.outputs),
    ):
        source = next((name for name in sources if name in found), None)
        if source is not None and not is_hidden:
            contents[target] = _content(found[source], is_messages=source in _MESSAGES)
    return contents


def _content(value: Any, *, is_messages: bool) -> str:
    """Return a content as a JSON object without secrets, as LangSmith shows it best."""
    try:
        content = redact(json.loads(value) if isinstance(value, str) else value)
    except ValueError:
        content = scrub(value)
    except Exception:
        # Fail closed, as capture does.
        content = REDACTED
    if is_messages:
        content = {"messages": content}
    return json.dumps(content if isinstance(content, dict) else {"value": content})


def _attachments(value: Any) -> str:
    """Return the files of a run as LangSmith wants them; what is none is left out, because it is not looked through."""
    if not isinstance(value, str) or len(value) > _MAX_ATTACHMENTS_CHARS:
        return ""
    try:
        files = [
            {"name": scrub(file["name"]), "content": file["content"], "mime_type": scrub(file["mime_type"])}
            for file in json.loads(value)
            if _BASE64.fullmatch(file["content"])
        ]
    except (ValueError, TypeError, KeyError):
        return ""
    return json.dumps(files) if files else ""


def _metadata(release: ResolvedSpan, found: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {
        name: value for name, value in found.items() if name.startswith("forge.") and name != Attr.SPAN_KIND
    }
    session_id = _id(release.session_id or str(found.get(Attr.GEN_AI_CONVERSATION_ID) or ""))
    if session_id:
        # The thread: LangSmith reads one of the two, depending on where it looks.
        known |= {LangSmithAttr.SESSION_ID: session_id, LangSmithAttr.THREAD_ID: session_id}
    if release.user_id:
        known[LangSmithAttr.USER_ID] = _id(release.user_id)
    if release.remote_parent is not None:
        known[LangSmithAttr.REMOTE_PARENT] = format_span_id(release.remote_parent.span_id)
    metadata = {LangSmithAttr.METADATA + name: value for name, value in known.items()}
    if session_id:
        metadata[Attr.GEN_AI_CONVERSATION_ID] = session_id
    if tags := [
        str(found[name]).replace(",", " ") for name in (Attr.COMPONENT_TYPE, Attr.CACHE_LAYER) if name in found
    ]:
        metadata.setdefault(LangSmithAttr.TAGS, ",".join(tags))
    provider = found.get(Attr.GEN_AI_PROVIDER) or found.get(Attr.GEN_AI_SYSTEM)
    if provider:
        # LangSmith prices by either, depending on the age of the code that looks.
        metadata |= {Attr.GEN_AI_PROVIDER: provider, Attr.GEN_AI_SYSTEM: provider}
    return metadata


def _id(value: str) -> str:
    """Return an id that groups as ever, also where somebody has made a token of it."""
    return value if scrub(value) == value else f"redacted-{sha256(value.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _cost_usd(call: ModelCall, price: Price) -> Decimal | None:
    try:
        return price(call)
    except Exception:
        # A price that cannot be worked out is unknown; it must not cost the run.
        logger.debug("A model call could not be priced", exc_info=True)
        return None


def _usage(call: ModelCall, cost_usd: Decimal | None) -> dict[str, Any]:
    usage = call.usage
    told: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    details = {"cache_read": usage.cache_read, "cache_creation": usage.cache_write}
    if any(details.values()):
        told["input_token_details"] = details
    if usage.reasoning:
        told["output_token_details"] = {"reasoning": usage.reasoning}
    if cost_usd is not None:
        told["total_cost"] = float(cost_usd)
    return {LangSmithAttr.USAGE: json.dumps(told), f"{_USAGE}total_tokens": told["total_tokens"]}


def _events(span: ReadableSpan, hidden: HideOptions) -> list[Event]:
    """Return the events; an error that is only a status gets one, because LangSmith reads no status."""
    events = [_event(event, hidden) for event in span.events if event.name == _EXCEPTION or not hidden.any_content]
    if span.status.status_code is StatusCode.ERROR and all(event.name != _EXCEPTION for event in events):
        error_type = str(attributes_of(span).get(Attr.ERROR_TYPE) or "Error")
        message = error_type if hidden.any_text else scrub(span.status.description or error_type)
        about = {"exception.type": scrub(error_type), "exception.message": message}
        events.append(Event(_EXCEPTION, about, timestamp=span.end_time))
    return events


def _event(event: Event, hidden: HideOptions) -> Event:
    attributes = dict(event.attributes or {})
    if event.name == _EXCEPTION and hidden.any_text:
        error_type = attributes.get("exception.type", "Error")
        attributes = {"exception.type": error_type, "exception.message": error_type}
    return Event(scrub(event.name), _redacted(attributes), timestamp=event.timestamp)


def _plain(value: Any) -> Any:
    """Return scalars as they are, and everything else as JSON, which LangSmith reads back."""
    return value if isinstance(value, _SCALARS) else json.dumps(value, default=str)
