"""The published workload is what it says: its counts are pinned, its file comes from its script."""

from collections import Counter
from pathlib import Path

import pytest
from tests.examples.samples import samples

from componentforge.workload import PATH, Edit, load_workload
from componentforge.workload_make import render

WORKLOAD = load_workload()


def test_the_counts_are_pinned() -> None:
    """120 generations, 48 different questions: 60 % can be answered from an exact cache."""
    questions = WORKLOAD.questions()
    assert len(questions) == 120
    assert len(set(questions)) == 48
    assert sum(isinstance(step, Edit) for step in WORKLOAD.steps) == 5


def test_the_mix_is_pinned() -> None:
    """Every type, design, theme, wish and user takes part."""
    types = Counter(WORKLOAD.designs[order.design].component_type for order in WORKLOAD.orders())
    assert types == {"button": 42, "card": 30, "input": 18, "badge": 14, "navbar": 10, "modal": 6}
    orders = list(WORKLOAD.orders())
    assert {order.design for order in orders} == set(WORKLOAD.designs) == {found.name for found in samples()}
    assert {order.theme for order in orders} == set(WORKLOAD.themes)
    assert {order.wish for order in orders} == set(WORKLOAD.wishes)
    assert len({order.user for order in orders}) == 5


def test_designs_are_asked_as_zipf_says() -> None:
    """The most popular design is asked far more often than the median one."""
    counts = [count for _, count in Counter(order.design for order in WORKLOAD.orders()).most_common()]
    assert counts[0] >= 4 * counts[8]


def test_groups_are_small_and_never_ask_twice_at_once() -> None:
    """At most six requests are sent at the same moment, and no two of them ask the same."""
    groups = [step for step in WORKLOAD.steps if not isinstance(step, Edit)]
    assert max(len(group) for group in groups) == 6
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
