"""Copies of a result share nothing that can be changed."""

import threading
from typing import Any

import pytest

from forge_otel.layers.result_copies import ResultCopies
from forge_otel.types import GenerationResult


@pytest.mark.parametrize("metadata", [{}, {"a": {"b": [1]}}, {"a": {1: {2, 3}}}, {"a": object}])
def test_copies_are_equal_and_independent(metadata: dict[str, Any]) -> None:
    """A later change of the original is in no copy."""
    result = GenerationResult(code="x", artifacts={"a": b"1"}, report_html="<p>", metadata=metadata)
    copies = ResultCopies(result)
    first: Any = copies.copy()
    assert first == result
    first.metadata["new"] = 1
    first.artifacts["new"] = "1"
    metadata["later"] = 2
    assert dict(copies.copy().metadata).keys() == metadata.keys() - {"later"}
    assert copies.copy().artifacts == {"a": b"1"}


def test_metadata_that_cannot_be_copied_is_shared() -> None:
    """A lock has no copy, but the mapping around it has one."""
    lock = threading.Lock()
    copies = ResultCopies(GenerationResult(code="x", metadata={"lock": lock}))
    copy: Any = copies.copy()
    assert copy.metadata["lock"] is lock
    copy.metadata["more"] = 1
    assert copies.copy().metadata == {"lock": lock}
