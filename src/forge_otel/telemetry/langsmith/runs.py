"""Conversion of an ended span to a run: attributes, contents, usage and errors in LangSmith's terms.

Spans are not modified; a new one is returned. Contents are redacted here again, because other instrumentations capture
them without redaction.
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
"""Returns the cost of a model call in USD; None if it is unknown."""

_logger = logging.getLogger(__name__)

# LangSmith has no run type for agents; its own integrations use chains.
_RUN_TYPE_BY_KIND: Final[Mapping[str, str]] = {
    **{name: name for name in ("llm", "chain", "tool", "retriever", "embedding", "prompt", "parser")},
    **dict.fromkeys(("agent", "step", "task", "workflow"), "chain"),
}
_RUN_TYPE_BY_OPERATION: Final[Mapping[str, str]] = {
    **dict.fromkeys((Operation.CHAT, Operation.TEXT_COMPLETION, Operation.GENERATE_CONTENT), "llm"),
    Operation.EMBEDDINGS: "embedding",
    Operation.RETRIEVAL: "retriever",
    Operation.EXECUTE_TOOL: "tool",
}
_KIND_ATTRIBUTES: Final = (LangSmithAttr.RUN_TYPE, Attr.SPAN_KIND, "openinference.span.kind", "traceloop.span.kind")
# Attributes in which instrumentations capture contents; the first present one becomes the inputs or outputs.
_INPUT_ATTRIBUTES: Final = (
    LangSmithAttr.PROMPT,
    Attr.INPUT,
    "gen_ai.input.messages",
    "gen_ai.tool.call.arguments",
    "input.value",
)
_OUTPUT_ATTRIBUTES: Final = (
    LangSmithAttr.COMPLETION,
    Attr.OUTPUT,
    "gen_ai.output.messages",
    "gen_ai.tool.call.result",
    "output.value",
)
_MESSAGE_ATTRIBUTES: Final = frozenset({"gen_ai.input.messages", "gen_ai.output.messages"})
_INPUT_PATTERN: Final = re.compile(
    r"gen_ai\.(prompt|input\.messages|system_instructions|tool\.(definitions|call\.arguments)|retrieval\.query)"
    r"|forge\.input$|input\.(value|mime)|llm\.(input|prompt)|traceloop\.entity\.input|langsmith\.attachments"
)
_OUTPUT_PATTERN: Final = re.compile(
    r"gen_ai\.(completion|output\.messages|tool\.call\.result|retrieval\.documents)"
    r"|forge\.output$|output\.(value|mime)|llm\.(output|completion)|traceloop\.entity\.output|langsmith\.attachments"
)
# These hold data of the caller, secrets included, and LangSmith has no field for them.
_NEVER_SENT: Final = re.compile(
    r"url\.|http\.(url|target|request\.header|response\.header)|db\.|client\.|user_agent\.|net\."
)
# The attributes that are sent if metadata is hidden.
_STRUCTURAL: Final = re.compile(
    r"langsmith\.(span\.kind|usage_metadata)$|gen_ai\.(operation|provider|agent|tool)\.name$|gen_ai\.system$"
    r"|gen_ai\.(request|response)\.model$|gen_ai\.usage\.|gen_ai\.(prompt|completion)$|error\.type$"
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*+={0,2}")
# LangSmith accepts about 20 MB in one request.
_MAX_ATTACHMENTS_CHARS: Final = 10 * 2**20
_USAGE: Final = "gen_ai.usage."
_SCALARS: Final = (str, bool, int, float)
_EXCEPTION: Final = "exception"


def as_run(resolved: ResolvedSpan, hide: HideOptions, price: Price) -> ReadableSpan:
    """Return the span of `resolved` with LangSmith's attributes and its parent run.

    Args:
        hide: parts that are not sent.
        price: returns the cost of a model call in USD.
    """
    span = resolved.span
    links = [Link(_bare(link.context), None if hide.metadata else _redacted(link.attributes)) for link in span.links]
    if resolved.remote_parent is not None:
        links.append(Link(_bare(resolved.remote_parent)))
    context = span.get_span_context()
    return ReadableSpan(
        name=scrub(span.name),
        context=None if context is None else _bare(context),
        parent=None if resolved.parent is None else _bare(resolved.parent),
        resource=Resource.get_empty() if hide.metadata else _resource(span.resource),
        attributes=_attributes(resolved, hide, price),
        events=_events(span, hide),
        links=links,
        kind=span.kind,
        status=_status(span.status, hide),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _bare(context: SpanContext) -> SpanContext:
    """Return `context` without its trace state, which is arbitrary data of the caller."""
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


@lru_cache(maxsize=16)
def _resource(resource: Resource) -> Resource:
    # Cached: redacted once for all spans, and spans that share a resource object are encoded together.
    return Resource(_redacted(resource.attributes), resource.schema_url)


def _redacted(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    redacted: dict[str, Any] = redact(dict(attributes or {}))
    return {name: _plain(value) for name, value in redacted.items() if value is not None}


def _status(status: Status, hide: HideOptions) -> Status:
    if hide.any_text or not status.description:
        return Status(status.status_code)
    return Status(status.status_code, scrub(status.description))


def run_type(attributes: Mapping[str, Any]) -> str:
    """Return LangSmith's type of a run; a span without a known kind or operation is a chain."""
    for name in _KIND_ATTRIBUTES:
        found = _RUN_TYPE_BY_KIND.get(str(attributes.get(name, "")).lower())
        if found is not None:
            return found
    return _RUN_TYPE_BY_OPERATION.get(str(attributes.get(Attr.GEN_AI_OPERATION)), "chain")


def _attributes(resolved: ResolvedSpan, hide: HideOptions, price: Price) -> dict[str, Any]:
    attributes = attributes_of(resolved.span)
    kind = run_type(attributes)
    contents = _contents(attributes, hide)
    # Filtered before redaction: contents that are not sent, such as a large screenshot, are not scanned.
    run: dict[str, Any] = redact({name: value for name, value in attributes.items() if _may_be_sent(name)})
    if not hide.any_content and (attachments := _attachments(attributes.get(LangSmithAttr.ATTACHMENTS))):
        run[LangSmithAttr.ATTACHMENTS] = attachments
    run |= contents | {LangSmithAttr.RUN_TYPE: kind} | _metadata(resolved, run)
    # LangSmith sums usage up the tree: a total that is repeated above a model call would count twice.
    run = {name: value for name, value in run.items() if kind == "llm" or not name.startswith(_USAGE)}
    call = read_call(attributes) if kind == "llm" else None
    if call is not None:
        run |= _usage(call, _cost_usd(call, price))
    if hide.metadata:
        run = {name: value for name, value in run.items() if _STRUCTURAL.match(name)}
    return {name: _plain(value) for name, value in run.items() if value is not None}


# Cached: attribute names are few, and matching three patterns takes longer than the lookup.
@lru_cache(maxsize=1024)
def _may_be_sent(name: str) -> bool:
    return not (_NEVER_SENT.match(name) or _INPUT_PATTERN.match(name) or _OUTPUT_PATTERN.match(name))


def _contents(attributes: Mapping[str, Any], hide: HideOptions) -> dict[str, str]:
    contents = {}
    for target, sources, is_hidden in (
        (LangSmithAttr.PROMPT, _INPUT_ATTRIBUTES, hide.inputs),
        (LangSmithAttr.COMPLETION, _OUTPUT_ATTRIBUTES, hide.outputs),
    ):
        source = next((name for name in sources if name in attributes), None)
        if source is not None and not is_hidden:
            contents[target] = _content(attributes[source], is_messages=source in _MESSAGE_ATTRIBUTES)
    return contents


def _content(value: Any, *, is_messages: bool) -> str:
    """Return a content as a JSON object without secrets, the form that LangSmith displays best."""
    try:
        content = redact(json.loads(value) if isinstance(value, str) else value)
    except ValueError:
        content = scrub(value)
    except Exception:
        # Fail closed, like the capture of contents.
        content = REDACTED
    if is_messages:
        content = {"messages": content}
    return json.dumps(content if isinstance(content, dict) else {"value": content})


def _attachments(value: Any) -> str:
    """Return the attached files of a run as JSON; an entry whose content is not base64 is omitted."""
    if not isinstance(value, str) or len(value) > _MAX_ATTACHMENTS_CHARS:
        return ""
    try:
        files = [
            {"name": scrub(file["name"]), "content": file["content"], "mime_type": scrub(file["mime_type"])}
            for file in json.loads(value)
            # Attachments are not redacted, so text must not pass as one.
            if _BASE64.fullmatch(file["content"])
        ]
    except (ValueError, TypeError, KeyError):
        return ""
    return json.dumps(files) if files else ""


def _metadata(resolved: ResolvedSpan, attributes: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {
        name: value for name, value in attributes.items() if name.startswith("forge.") and name != Attr.SPAN_KIND
    }
    session_id = _id(resolved.session_id or str(attributes.get(Attr.GEN_AI_CONVERSATION_ID) or ""))
    if session_id:
        # The thread: LangSmith reads either key, depending on the view.
        known |= {LangSmithAttr.SESSION_ID: session_id, LangSmithAttr.THREAD_ID: session_id}
    if resolved.user_id:
        known[LangSmithAttr.USER_ID] = _id(resolved.user_id)
    if resolved.remote_parent is not None:
        known[LangSmithAttr.REMOTE_PARENT] = format_span_id(resolved.remote_parent.span_id)
    metadata = {LangSmithAttr.METADATA + name: value for name, value in known.items()}
    if session_id:
        metadata[Attr.GEN_AI_CONVERSATION_ID] = session_id
    tagged = [name for name in (Attr.COMPONENT_TYPE, Attr.CACHE_LAYER) if name in attributes]
    if tagged:
        metadata[LangSmithAttr.TAGS] = ",".join(str(attributes[name]).replace(",", " ") for name in tagged)
    provider = attributes.get(Attr.GEN_AI_PROVIDER) or attributes.get(Attr.GEN_AI_SYSTEM)
    if provider:
        # LangSmith prices by either attribute, depending on its version.
        metadata |= {Attr.GEN_AI_PROVIDER: provider, Attr.GEN_AI_SYSTEM: provider}
    return metadata


def _id(value: str) -> str:
    """Return `value`, or its hash if it contains a secret; both identify the session or user."""
    return value if scrub(value) == value else f"redacted-{sha256(value.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _cost_usd(call: ModelCall, price: Price) -> Decimal | None:
    try:
        return price(call)
    except Exception:
        # A failing price is an unknown one; the run is still sent.
        _logger.debug("model call cannot be priced", exc_info=True)
        return None


def _usage(call: ModelCall, cost_usd: Decimal | None) -> dict[str, Any]:
    usage = call.usage
    metadata: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    details = {"cache_read": usage.cache_read, "cache_creation": usage.cache_write}
    if any(details.values()):
        metadata["input_token_details"] = details
    if usage.reasoning:
        metadata["output_token_details"] = {"reasoning": usage.reasoning}
    if cost_usd is not None:
        metadata["total_cost"] = float(cost_usd)
    return {LangSmithAttr.USAGE: json.dumps(metadata), f"{_USAGE}total_tokens": metadata["total_tokens"]}


def _events(span: ReadableSpan, hide: HideOptions) -> list[Event]:
    """Return the events, with an exception event for an error status, which LangSmith does not read."""
    events = [_event(event, hide) for event in span.events if event.name == _EXCEPTION or not hide.any_content]
    if span.status.status_code is StatusCode.ERROR and all(event.name != _EXCEPTION for event in events):
        error_type = str(attributes_of(span).get(Attr.ERROR_TYPE) or "Error")
        message = error_type if hide.any_text else scrub(span.status.description or error_type)
        about = {"exception.type": scrub(error_type), "exception.message": message}
        events.append(Event(_EXCEPTION, about, timestamp=span.end_time))
    return events


def _event(event: Event, hide: HideOptions) -> Event:
    attributes = dict(event.attributes or {})
    if event.name == _EXCEPTION and hide.any_text:
        error_type = attributes.get("exception.type", "Error")
        attributes = {"exception.type": error_type, "exception.message": error_type}
    return Event(scrub(event.name), _redacted(attributes), timestamp=event.timestamp)


def _plain(value: Any) -> Any:
    """Return scalars unchanged and other values as JSON, which LangSmith parses."""
    return value if isinstance(value, _SCALARS) else json.dumps(value, default=str)
