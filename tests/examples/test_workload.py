"""The published workload: its counts, its file and the hit rate of the caches on it."""

from pathlib import Path

import pytest
from tests.examples.samples import samples

from componentforge.schemas import COMPONENT_TYPES
from componentforge.workload import DAY, PATH, Edit, load_workload, parse_workload
from componentforge.workload_make import REPEATS_AFTER, render
from componentforge.workload_measure import measure

WORKLOAD = load_workload()


def test_the_counts_are_pinned() -> None:
    """100 requests with 53 different identities, so that an exact cache answers at most 47 %, and 20 repeats."""
    identities = WORKLOAD.identities()
    assert len(identities) == DAY + REPEATS_AFTER == 120
    assert len(set(identities[:DAY])) == len(set(identities)) == 53
    assert sum(isinstance(step, Edit) for step in WORKLOAD.steps) == 4


def test_every_design_theme_and_user_occurs() -> None:
    """Each design, theme, user and component type occurs in a request."""
    requests = list(WORKLOAD.requests())
    assert {request.design for request in requests} == set(WORKLOAD.designs)
    assert len(WORKLOAD.designs) == 12
    assert {design.component_type for design in WORKLOAD.designs.values()} == set(COMPONENT_TYPES)
    assert {request.theme for request in requests} == set(WORKLOAD.themes)
    assert len({request.user for request in requests}) == 5


@pytest.mark.parametrize("seed", range(20))
def test_every_seed_gives_a_complete_workload(seed: int) -> None:
    """Another seed has the same number of requests and designs, and one seed always gives the same workload."""
    workload = parse_workload(render(seed), name="a workload")
    assert len(list(workload.requests())) == DAY + REPEATS_AFTER
    assert {request.design for request in workload.requests()} == set(WORKLOAD.designs)
    assert render(seed) == render(seed)


def test_concurrent_requests_are_few_and_distinct() -> None:
    """At most four requests are concurrent, and no two of them are equal."""
    groups = [step for step in WORKLOAD.steps if not isinstance(step, Edit)]
    assert max(len(group) for group in groups) == 4
    for group in groups:
        assert len({(request.design, request.theme, request.wish) for request in group}) == len(group)


def test_the_file_is_up_to_date() -> None:
    """The committed file equals the output of the script."""
    assert PATH.read_text(encoding="utf-8") == render()


def test_bodies_name_real_designs() -> None:
    """Each request names a component of the sample files."""
    known = {(found.node.file_key, found.node.node_id, found.component_type) for found in samples()}
    for request in WORKLOAD.requests():
        body = WORKLOAD.body(request)
        assert (body["figma_key"], body["node_id"], body["component_type"]) in known


@pytest.mark.parametrize("text", ["{}", '{"designs": {}, "steps": [{"generate": [{}]}]}', "x"])
def test_invalid_files_are_rejected(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    path = tmp_path / "workload.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"not a valid workload|Expecting"):
        load_workload(path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 4711, 505])
async def test_hit_rate(tmp_path: Path, seed: int | None) -> None:
    """At least 73 % hits in 100 requests, 20 % from L1 alone in the first 50, and no wrong answer."""
    workload = WORKLOAD if seed is None else parse_workload(render(seed), name="another workload")
    measurement = await measure(workload, tmp_path)
    assert measurement.wrong == []
    assert measurement.hit_rate(first=DAY) >= 0.73
    assert measurement.hit_rate(("L1",), first=50) >= 0.20
