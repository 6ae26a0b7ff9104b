"""Independent copies of one result, for several callers who each get their own."""

from copy import deepcopy
from typing import Any

import orjson

from forge_otel.types import GenerationResult

__all__ = ["ResultCopies"]


class ResultCopies:
    """A snapshot of a result, of which copies share no mapping with each other or with the original.

    Texts and bytes are shared, because they cannot change. Metadata goes through JSON, as that of a cached result does;
    metadata without a JSON form is copied object by object.
    """

    __slots__ = ("_artifacts", "_metadata", "_result")

    def __init__(self, result: GenerationResult) -> None:
        self._result = result
        self._artifacts = dict(result.artifacts)
        self._metadata = _snapshot(result.metadata)

    @property
    def metadata_json(self) -> bytes | None:
        """The metadata as JSON; None if it is empty or has no JSON form."""
        return self._metadata if isinstance(self._metadata, bytes) else None

    def copy(self) -> GenerationResult:
        """Return a result of its own."""
        result, metadata = self._result, self._metadata
        # Written out, because dataclasses.replace would double the time of a near hit.
        return GenerationResult(
            code=result.code,
            artifacts=dict(self._artifacts),
            report_html=result.report_html,
            metadata=orjson.loads(metadata) if isinstance(metadata, bytes) else _deep(metadata),
        )


def _snapshot(metadata: Any) -> Any:
    if not metadata:
        return {}
    try:
        return orjson.dumps(metadata)
    except (TypeError, ValueError):
        return _deep(metadata)


def _deep(metadata: Any) -> Any:
    if not metadata:
        return {}
    try:
        return deepcopy(metadata)
    except Exception:
        # An open file or a lock cannot be copied; the mapping around it can.
        return dict(metadata)
