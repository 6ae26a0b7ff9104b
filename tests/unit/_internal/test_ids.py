"""Ids are unique and sort by creation time."""

from uuid import UUID

from forge_otel._internal.ids import new_id


def test_ids_are_version_7_and_sort_by_time() -> None:
    """Ids of different milliseconds sort in the order of creation."""
    first = new_id()
    ids = [first]
    while ids[-1][:13] == first[:13]:
        ids.append(new_id())
    assert ids[-1] > first
    assert {UUID(one).version for one in ids} == {7}
    assert len(set(ids)) == len(ids)
