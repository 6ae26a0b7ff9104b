"""A bounded map evicts what was used longest ago."""

from forge_otel._internal.bounded import BoundedMap


def test_the_entry_set_first_is_evicted() -> None:
    """At most `max_entries` are kept."""
    entries = BoundedMap[str, int](2)
    for number, name in enumerate("abc"):
        entries[name] = number
    assert dict(entries) == {"b": 1, "c": 2}


def test_setting_an_entry_again_makes_it_the_newest() -> None:
    """It outlives one that was set after it."""
    entries = BoundedMap[str, int](2)
    entries["a"], entries["b"], entries["a"], entries["c"] = 1, 2, 3, 4
    assert dict(entries) == {"a": 3, "c": 4}


def test_touch_makes_an_entry_the_newest() -> None:
    """A missing one is None and adds nothing."""
    entries = BoundedMap[str, int](2)
    entries["a"], entries["b"] = 1, 2
    assert entries.touch("a") == 1
    assert entries.touch("x") is None
    entries["c"] = 3
    assert dict(entries) == {"a": 1, "c": 3}
