"""Tests of values attached to foreign objects."""

import gc
import weakref

from forge_otel._internal.per_object import PerObject


class Owner:
    """An object of another library."""


def test_each_owner_has_one_value() -> None:
    """It is created on first use."""
    created: list[Owner] = []

    def create(owner: Owner) -> list[int]:
        created.append(owner)
        return []

    values: PerObject[Owner, list[int]] = PerObject(create)
    one, other = Owner(), Owner()
    values.get(one).append(1)
    assert (values.get(one), values.get(other), created) == ([1], [], [one, other])


def test_a_value_is_released_with_its_owner() -> None:
    """A process that makes providers again and again does not grow."""
    values: PerObject[Owner, Owner] = PerObject(lambda _owner: Owner())
    owner = Owner()
    value = weakref.ref(values.get(owner))
    assert value() is not None
    del owner
    gc.collect()
    assert value() is None
