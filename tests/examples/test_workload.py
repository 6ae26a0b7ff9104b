"""The published workload is what it says: its counts are pinned, its file comes from its script."""

from pathlib import Path

import pytest
from tests.examples.samples import samples

from componentforge.schemas import COMPONENT_TYPES
from componentforge.workload import DAY, PATH, Edit, load_workload, workload_of
from componentforge.workload_make import MORNING, render
from componentforge.workload_measure import measure

WORKLOAD = load_workload()


def test_the_counts_are_pinned() -> None:
    """A day of 100 with 53 different questions, of which an exact cache answers 47 % at most; then 20 repeats."""
    questions = WORKLOAD.questions()
    assert len(questions) == DAY + MORNING == 120
    assert len(set(questions[:DAY])) == len(set(questions)) == 53
    assert sum(isinstance(step, Edit) for step in WORKLOAD.steps) == 4


def test_everything_takes_part() -> None:
    """Every design, theme and user, and all types of components."""
    orders = list(WORKLOAD.orders())
    assert {order.design for order in orders} == set(WORKLOAD.designs)
    assert len(WORKLOAD.designs) == 12
    assert {design.component_type for design in WORKLOAD.designs.values()} == set(COMPONENT_TYPES)
    assert {order.theme for order in orders} == set(WORKLOAD.themes)
    assert len({order.user for order in orders}) == 5


@pytest.mark.parametrize("seed", range(20))
def test_every_seed_is_a_day_of_the_same_kind(seed: int) -> None:
    """A hundred requests for twelve components and a morning, and always the same day for the same seed."""
    day = workload_of(render(seed), name="a day")
    assert len(list(day.orders())) == DAY + MORNING
    assert {order.design for order in day.orders()} == set(WORKLOAD.designs)
    assert render(seed) == render(seed)


def test_groups_are_small_and_never_ask_twice_at_once() -> None:
    """At most four requests are sent at the same moment, and no two of them ask the same."""
    groups = [step for step in WORKLOAD.steps if not isinstance(step, Edit)]
    assert max(len(group) for group in groups) == 4
    for group in groups:
        assert len({(order.design, order.theme, order.wish) for order in group}) == len(group)


def test_the_file_is_what_the_script_writes() -> None:
    """The committed file comes from the committed script."""
    assert PATH.read_text(encoding="utf-8") == render()


def test_bodies_name_real_designs() -> None:
    """Each request names a component that the sample files have."""
    known = {(found.node.file_key, found.node.node_id, found.component_type) for found in samples()}
    for order in WORKLOAD.orders():
        body = WORKLOAD.body(order)
        assert (body["figma_key"], body["node_id"], body["component_type"]) in known


@pytest.mark.parametrize("text", ["{}", '{"designs": {}, "steps": [{"generate": [{}]}]}', "x"])
def test_what_is_no_workload_is_refused(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    path = tmp_path / "workload.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"no workload|Expecting"):
        load_workload(path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 4711, 505])
async def test_the_caches_answer_a_day(tmp_path: Path, seed: int | None) -> None:
    """At least 73 of 100 after the day and 20 % from L1 alone after 50, and nothing that the pipeline would not say."""
    day = WORKLOAD if seed is None else workload_of(render(seed), name="another day")
    measured = await measure(day, tmp_path)
    assert measured.wrong == []
    assert measured.hit_rate(first=DAY) >= 0.73
    assert measured.hit_rate(("L1",), first=50) >= 0.20
