"""Secrets in every place that a span has, in the forms in which they get there; and what looks like one and is none."""

import json
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

__all__ = ["NUMBER_UNDER_KEY", "SECRETS", "SPARED", "planted"]

SPARED: Final[Mapping[str, Any]] = {
    "gen_ai.usage.input_tokens": AnyValue(int_value=1_200),
    "gen_ai.usage.output_tokens": AnyValue(int_value=340),
    "gen_ai.usage.cache_read.input_tokens": AnyValue(int_value=200),
    "gen_ai.usage.reasoning.output_tokens": AnyValue(int_value=40),
    "gen_ai.usage.total_tokens": AnyValue(int_value=1_540),
    "gen_ai.request.max_tokens": AnyValue(int_value=4_096),
    "gen_ai.token.type": AnyValue(string_value="input"),
    "llm.time_to_first_token": AnyValue(double_value=0.25),
    "forge.design.tokens": AnyValue(string_value='{"color": "#0055ff", "token": "color.primary"}'),
    "langsmith.usage_metadata": AnyValue(
        string_value='{"input_tokens": 1200, "output_tokens": 340, "input_token_details": {"cache_read": 200}}'
    ),
    "url.full": AnyValue(string_value="https://shop.example:8443/generate?page=2"),
    "session.id": AnyValue(string_value="s1"),
    "gen_ai.prompt": AnyValue(string_value='{"text": "A form with a password field and a Basic submit button"}'),
}
"""Attributes that have to arrive as they are."""


def _secret(number: int, form: str = "plain{}canary") -> str:
    return form.format(f"{number:02d}Xq7ZkW9rTb")


# Each place with the secret in it; of tokens that are known by their form, the whole.
NUMBER_UNDER_KEY: Final = "number under a telling key"
_FORMED: Final = "sk-proj-{}AbCdEfGh"
SECRETS: Final[dict[str, str]] = {
    "request header, authorization": _secret(1),
    "request header, cookie": _secret(2),
    "response header, set-cookie": _secret(3),
    "request header, x-api-key": _secret(4),
    "request header, x-figma-token": _secret(5, "figd_{}AbCdEfGh"),
    "query of a URL": _secret(6),
    "userinfo of a URL": _secret(7),
    "JSON body, key of it": _secret(8),
    "JSON body, four deep": _secret(9),
    "JSON within JSON": _secret(10),
    "map, key of it": _secret(11),
    "map in a list in a map": _secret(12),
    "list of texts": _secret(13, _FORMED),
    "exception message": _secret(14),
    "exception stack trace": _secret(15),
    "name of an event": _secret(16, _FORMED),
    "status message": _secret(17),
    "name of the span": _secret(18),
    "trace state": _secret(19, _FORMED),
    "baggage": _secret(20),
    "tool arguments": _secret(21),
    "prompt": _secret(22, _FORMED),
    "completion": _secret(23, "ghp_{}AbCdEfGhIjKlMnOp"),
    "key of an attribute": _secret(24, _FORMED),
    "resource attribute": _secret(25),
    "command line of the process": _secret(26),
    "scope attribute": _secret(27, "lsv2_pt_{}AbCdEfGh"),
    "database connection": _secret(28),
    "JWT": _secret(29, "eyJhbGciOiJIUzI1NiJ9.eyJ{}AbCd.c2lnbmF0dXJl"),
    "private key": _secret(30, "MIIEvQIBADANBg{}kqhkiG9w0"),
    "AWS key": "AKIA31XQ7ZKW9RTBABCD",
    "presigned URL": _secret(32),
    "form body": _secret(33),
    NUMBER_UNDER_KEY: "9073461528",
    "key of an attribute of an event": _secret(35, _FORMED),
    "cookie in a text": _secret(36),
}


def planted() -> ExportTraceServiceRequest:
    """A request with all of them, and with the attributes that are spared."""
    s = SECRETS
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _put(resource.resource.attributes, "service.name", "shop")
    _put(resource.resource.attributes, "forge.admin_token", s["resource attribute"])
    _put(resource.resource.attributes, "process.command_line", f"serve --password={s['command line of the process']}")
    scope = resource.scope_spans.add()
    scope.scope.name = "shop"
    _put(scope.scope.attributes, "configured.with", s["scope attribute"])
    span = scope.spans.add(
        trace_id=b"\x01" * 16,
        span_id=b"\x02" * 8,
        name=f"GET /login?token={s['name of the span']}",
        trace_state=f"vendor={s['trace state']}",
        start_time_unix_nano=1_700_000_000_000_000_000,
        end_time_unix_nano=1_700_000_001_000_000_000,
        status=Status(code=Status.STATUS_CODE_ERROR, message=f"login failed: password={s['status message']}"),
    )
    for key, value in _attributes(s).items():
        _put(span.attributes, key, value)
    event = span.events.add(name=f"retry with {s['name of an event']}", time_unix_nano=1_700_000_000_500_000_000)
    _put(event.attributes, "exception.type", "ValueError")
    _put(event.attributes, "exception.message", f"bad api_key: '{s['exception message']}'")
    frame = f'  File "x.py", line 1\n    connect(host, secret="{s["exception stack trace"]}", port=1)\nValueError: no'
    _put(event.attributes, "exception.stacktrace", frame)
    _put(event.attributes, f"given {s['key of an attribute of an event']}", "yes")
    spared = scope.spans.add(
        trace_id=b"\x01" * 16,
        span_id=b"\x03" * 8,
        parent_span_id=b"\x02" * 8,
        name="chat gpt-4o",
        start_time_unix_nano=1_700_000_000_000_000_000,
        end_time_unix_nano=1_700_000_001_000_000_000,
    )
    for key, kept in SPARED.items():
        spared.attributes.add(key=key, value=kept)
    return request


def _attributes(s: Mapping[str, str]) -> dict[str, Any]:
    inner = json.dumps({"client_secret": s["JSON within JSON"], "n": 1})
    deep = {"a": {"b": [{"c": {"refresh_token": s["JSON body, four deep"]}}]}}
    return {
        "http.request.header.authorization": [f"Bearer {s['request header, authorization']}"],
        "http.request.header.cookie": f"theme=dark; sid={s['request header, cookie']}",
        "http.response.header.set-cookie": [f"sid={s['response header, set-cookie']}; HttpOnly"],
        "http.request.header.x-api-key": s["request header, x-api-key"],
        "http.request.header.x-figma-token": [s["request header, x-figma-token"]],
        "url.query": f"?page=2&access_token={s['query of a URL']}&sort=up",
        "url.full": f"https://ada:{s['userinfo of a URL']}@shop.example:8443/login",
        "http.request.body": json.dumps({"user": "ada", "password": s["JSON body, key of it"]}),
        "http.response.body": json.dumps(deep),
        "message": json.dumps({"payload": inner}),
        "nested": {"user": "ada", "apiKey": s["map, key of it"]},
        "deeper": {"calls": [{"headers": {"Authorization": f"Basic {s['map in a list in a map']}"}}]},
        "arguments": ["--key", s["list of texts"]],
        "baggage": f"user=ada,session_token={s['baggage']}",
        "gen_ai.tool.call.arguments": json.dumps({"url": "https://x", "credentials": s["tool arguments"]}),
        "gen_ai.input.messages": json.dumps([{"role": "user", "content": f"use {s['prompt']} please"}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "content": f"git clone {s['completion']}"}]),
        f"key {s['key of an attribute']}": "kept under it",
        "db.connection_string": f"postgresql://forge:{s['database connection']}@db:5432/forge",
        "note": f"verified {s['JWT']} today",
        "file": f"-----BEGIN PRIVATE KEY-----\n{s['private key']}\n-----END PRIVATE KEY-----",
        "region": f"eu-1 with {s['AWS key']}",
        "report.url": f"https://b.s3/r.html?X-Amz-Expires=3600&X-Amz-Signature={s['presigned URL']}",
        "form": f"name=ada&passwd={s['form body']}&go=1",
        "login.password": int(s[NUMBER_UNDER_KEY]),
        "log": f"sent Cookie: theme=dark; sid={s['cookie in a text']}",
    }


def _put(attributes: Any, key: str, value: Any) -> None:
    attributes.add(key=key).value.CopyFrom(_any(value))


def _any(value: Any) -> AnyValue:
    made = AnyValue()
    if isinstance(value, dict):
        made.kvlist_value.SetInParent()
        for key, item in value.items():
            made.kvlist_value.values.add(key=key).value.CopyFrom(_any(item))
    elif isinstance(value, list):
        made.array_value.values.extend(_any(item) for item in value)
    elif isinstance(value, int):
        made.int_value = value
    else:
        made.string_value = value
    return made
