"""The sample files have the format of the real API."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.examples.samples import samples

from componentforge.designs import FILES, FOLDER, load
from componentforge.designs.make import render
from componentforge.schemas import COMPONENT_TYPES

CONTRACT = json.loads((Path(__file__).parent / "data" / "figma_contract.json").read_text(encoding="utf-8"))


def faults(answer: Any, schema: str) -> list[str]:
    """Return the violations of the contract in a response."""
    validator = Draft202012Validator({"$ref": f"#/$defs/{schema}", "$defs": CONTRACT["$defs"]})
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(answer)]


@pytest.mark.parametrize("key", FILES)
def test_file_keeps_the_contract(key: str) -> None:
    """Every node, paint, effect and table conforms to the published API description."""
    assert faults(load(key), "GetFileResponse") == []


@pytest.mark.parametrize("key", FILES)
def test_contract_notices_a_fault(key: str) -> None:
    """The check detects a nested node without a required field."""
    file = load(key)
    del file["document"]["children"][0]["children"][0]["children"][0]["absoluteBoundingBox"]
    assert len(faults(file, "GetFileResponse")) == 1


@pytest.mark.parametrize("key", FILES)
def test_file_is_what_the_script_writes(key: str) -> None:
    """The committed file equals the output of the script."""
    assert (FOLDER / FILES[key]).read_text(encoding="utf-8") == render(key)


def test_every_type_has_components() -> None:
    """There are at least twelve components, and each of the six types occurs."""
    counts = Counter(sample.component_type for sample in samples())
    assert set(counts) == set(COMPONENT_TYPES)
    assert counts.total() >= 12
    assert min(counts.values()) >= 2


@pytest.mark.parametrize("key", FILES)
def test_ids_are_unique(key: str) -> None:
    """Node ids are unique within a file."""
    ids: list[str] = []
    queue = [load(key)["document"]]
    while queue:
        node = queue.pop()
        ids.append(node["id"])
        queue += node.get("children", [])
    assert len(ids) == len(set(ids)) > 50
