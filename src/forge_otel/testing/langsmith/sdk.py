"""Runs in the requests of the `langsmith` client: multipart with or without zstd, batches, and single runs.

The client sends a run in parts, and its updates in further requests; they are merged by the id of the run.
"""

import json
from collections.abc import Iterator, Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Final

from forge_otel.errors import needs
from forge_otel.testing.langsmith.runs import LangSmithRun, reduce_runs

with needs("langsmith"):
    import zstandard

__all__ = ["SdkRuns", "decompressed"]

_THREAD: Final = ("session_id", "conversation_id", "thread_id")


class SdkRuns:
    """The runs and scores that were received, merged by id."""

    def __init__(self) -> None:
        self._fields: dict[str, dict[str, Any]] = {}
        self.feedback: list[dict[str, Any]] = []

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Merge a request.

        Raises:
            ValueError: the request is not one of the client.
        """
        if path == "/runs/multipart":
            for name, content in _parts(headers.get("content-type", ""), body):
                self._take_part(name.split("."), content)
        elif path == "/runs/batch":
            batch = json.loads(body)
            for run in [*batch.get("post", ()), *batch.get("patch", ())]:
                self._merge(run["id"], run)
        else:
            run = json.loads(body)
            self._merge(run.get("id") or path.rpartition("/")[2], run)

    def runs(self) -> list[LangSmithRun]:
        """Return the runs by start time, without those that have a missing ancestor."""
        return reduce_runs(_run(fields) for fields in self._fields.values() if "name" in fields)

    def _take_part(self, name: list[str], content: bytes) -> None:
        kind, identity, *field = name
        if kind == "feedback":
            self.feedback.append(json.loads(content))
        elif kind in {"post", "patch"}:
            self._merge(identity, {field[0]: json.loads(content)} if field else json.loads(content))
        elif kind != "attachment":
            raise ValueError(f"unknown part of a multipart request: {kind}")

    def _merge(self, identity: str, fields: Mapping[str, Any]) -> None:
        known = self._fields.setdefault(str(identity), {"id": str(identity)})
        known.update({name: value for name, value in fields.items() if value is not None})


def decompressed(headers: Mapping[str, str], raw: bytes) -> bytes:
    """Return the body of a request, decompressed if it is in zstd."""
    if headers.get("content-encoding") != "zstd":
        return raw
    # `decompress` needs the size in the frame, which a streaming compressor does not write.
    return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(raw))


def _parts(content_type: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each part of a multipart body."""
    # A multipart body has the syntax of MIME (RFC 7578), whose header is that of the request.
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            yield name, content


def _run(fields: Mapping[str, Any]) -> LangSmithRun:
    metadata = dict((fields.get("extra") or {}).get("metadata") or {})
    return LangSmithRun(
        id=str(fields["id"]),
        parent_id=str(fields.get("parent_run_id") or ""),
        trace_id=str(fields.get("trace_id") or fields["id"]),
        name=str(fields["name"]),
        type=str(fields.get("run_type", "chain")),
        # The client sends no nanoseconds; `order` sorts its runs.
        start_ns=0,
        end_ns=0,
        inputs=fields.get("inputs"),
        outputs=fields.get("outputs"),
        usage=dict(metadata.get("usage_metadata") or {}),
        tags=tuple(fields.get("tags") or ()),
        metadata=metadata,
        thread=str(next((metadata[name] for name in _THREAD if name in metadata), "")),
        user=str(metadata.get("user_id", "")),
        project=str(fields.get("session_name") or ""),
        error=fields.get("error"),
        order=str(fields.get("dotted_order") or ""),
    )
