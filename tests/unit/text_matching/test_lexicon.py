"""The closed lists agree with themselves: a rewrite has one target, and no word is both rewritten and kept."""

import pytest

from forge_otel.text_matching import lexicon


def test_a_verb_has_one_canonical_form() -> None:
    """The first verb of a group stands for itself."""
    assert all(lexicon.VERB_OF[verb] == verb for verb in set(lexicon.VERB_OF.values()))


@pytest.mark.parametrize("table", ["AMERICAN", "UNITS"])
def test_a_spelling_is_rewritten_once(table: str) -> None:
    """No target is rewritten to another word."""
    rewrites = getattr(lexicon, table)
    assert all(rewrites.get(target, target) == target for target in rewrites.values())


def test_verbs_that_are_exchanged_are_orders() -> None:
    """A polite opening before one of them is removed, and a condition can be moved around it."""
    assert set(lexicon.VERB_OF) <= lexicon.IMPERATIVES


def test_words_that_introduce_names_are_not_rewritten() -> None:
    """A synonym or a spelling among them would be rewritten inside a name."""
    assert lexicon.LITERAL_AFTER.isdisjoint(lexicon.VERB_OF)
    assert lexicon.LITERAL_AFTER.isdisjoint(lexicon.AMERICAN.values())


def test_a_condition_word_is_in_no_main_clause() -> None:
    """Otherwise a sentence with two conditions could be rearranged."""
    assert lexicon.CONDITIONS.isdisjoint(lexicon.IMPERATIVES)
