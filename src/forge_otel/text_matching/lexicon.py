"""The words that are treated in a special way: the published list of synonyms, of inflections and of fillers.

The list is short on purpose. Two words stand in one group only where exchanging them changes no component: `large`
and `big` do not, because both may be the name of a size, nor do `click` and `tap`, `select` and `choose`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = [
    "ANAPHORA",
    "ARTICLES",
    "AUXILIARIES",
    "FILLERS",
    "LABEL_WORDS",
    "LINKS",
    "NAMING",
    "NEGATIONS",
    "NO_NAMES",
    "NUMBER_WORDS",
    "OPENINGS",
    "SUBORDINATORS",
    "SYNONYMS",
    "UNITS",
    "VERBS",
    "canonical_word",
]

SYNONYMS: Final = (
    ("show", "display", "render", "present"),
    ("use", "apply", "employ", "utilise", "utilize"),
    ("with", "has", "have", "having"),
    ("when", "whenever", "if"),
    ("while", "whilst"),
    ("must", "should", "shall"),
    ("allow", "let", "permit"),
    ("create", "build", "generate"),
    ("hide", "conceal"),
    ("notify", "inform"),
    ("keep", "retain", "preserve"),
    ("place", "put"),
    ("provide", "supply"),
    ("change", "alter", "modify"),
    ("indicate", "signal"),
    ("entire", "whole"),
    ("color", "colour"),
    ("gray", "grey"),
    ("center", "centre"),
    ("customize", "customise"),
    ("animate",),
    ("add",),
    ("include",),
    ("open",),
    ("close",),
    ("load",),
    ("report",),
    ("support",),
    ("disable",),
    ("enable",),
    ("focus",),
    ("submit",),
    ("announce",),
    ("fail",),
    ("appear",),
    ("contain",),
    ("follow",),
    ("wrap",),
    ("trigger",),
    ("send",),
    ("fill",),
    ("expand",),
    ("collapse",),
    ("remain",),
    ("become",),
    ("turn",),
    ("start",),
    ("stop",),
    ("stay",),
    ("fire",),
    ("emit",),
    ("accept",),
    ("return",),
    ("move",),
    ("need",),
    ("require",),
)
"""Groups of words that say the same, the first of each stands for all; a group of one is a verb with its forms."""

_VERB_GROUPS: Final = frozenset(group[0] for group in SYNONYMS) - {
    *("with", "when", "while", "must", "entire", "color", "gray", "center"),
}
# What ends in a single consonant that is doubled, or is irregular.
_IRREGULAR: Final = {"let": ("lets", "letting"), "put": ("puts", "putting"), "submit": ("submits", "submitting")}
# Names of states, slots and components as well as verbs: their inflected forms are left as they are.
_NEVER_INFLECTED: Final = frozenset({"display", "present", "place", "signal", "focus", "report"})

ARTICLES: Final = frozenset({"a", "an", "the"})
FILLERS: Final = frozenset({"please", "kindly", "also", "additionally", "does", "do"})
"""Words that say nothing; left out wherever they stand, as articles are."""

OPENINGS: Final = (
    ("make", "sure", "that", "you"),
    ("make", "sure", "you"),
    ("make", "sure", "that"),
    ("make", "sure"),
    ("ensure", "that", "you"),
    ("ensure", "that"),
    ("be", "sure", "to"),
    ("it", "is", "important", "that"),
    ("we", "would", "like", "you", "to"),
    ("i", "would", "like", "you", "to"),
    ("we", "want", "you", "to"),
    ("i", "want", "you", "to"),
    ("we", "need", "you", "to"),
    ("could", "you"),
    ("can", "you"),
    ("remember", "to"),
)
"""What a sentence may begin with without saying anything."""

NEGATIONS: Final = frozenset(
    {"not", "no", "never", "none", "nothing", "nobody", "neither", "nor", "without", "cannot", "except", "unless"}
)
SUBORDINATORS: Final = frozenset({"when", "while", "until", "unless", "after", "before", "because", "once"})

ANAPHORA: Final = frozenset(
    {
        *("it", "its", "itself", "this", "that", "these", "those", "they", "them", "their", "he", "she", "his", "her"),
        *("which", "who", "whose", "ones", "former", "latter", "same", "other", "others", "another", "both", "each"),
        *(
            "either",
            "such",
            "here",
            "there",
            "then",
            "next",
            "first",
            "second",
            "third",
            "last",
            "finally",
            "otherwise",
        ),
        *("previous", "previously", "above", "below", "following", "else", "however", "instead"),
        *("again", "therefore", "likewise", "similarly", "but", "too", "only", "rest", "afterwards", "later"),
    }
)
"""Words that point to another sentence, so that the order of the sentences says something."""

NAMING: Final = frozenset(
    {
        *("labelled", "labeled", "titled", "named", "called", "says", "saying", "say", "reads", "reading"),
        *("labels", "titles", "props", "properties", "options", "variants", "states", "events", "values", "names"),
        *("types", "words", "slots", "tags", "classes"),
    }
)
"""Words that all words behind them are names for, to the end of the sentence or a few words on."""
LABEL_WORDS: Final = NAMING | {
    *("label", "title", "text", "caption", "placeholder", "heading", "prop", "property", "value", "option"),
    *("variant", "state", "type", "event", "name", "class", "id", "slot", "tag", "word"),
}
"""Words after which names follow: they are taken as they are spelt."""
LINKS: Final = frozenset({"is", "are", "of", "to", "as", "should", "must", "it"})
"""Words that may stand between such a word and the name."""
NO_NAMES: Final = frozenset(
    {"a", "an", "the", "and", "or", "in", "on", "at", "for", "with", "when", "while", "if", "then"}
)
"""Words that no name begins with, unless a word of naming stands before."""

UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{
            unit: unit for unit in ("px", "pt", "rem", "em", "vh", "vw", "dp", "ms", "s", "fr", "ch", "deg", "kb", "mb")
        },
        **dict.fromkeys(("pixel", "pixels"), "px"),
        **dict.fromkeys(("percent", "%"), "%"),
        **dict.fromkeys(("second", "seconds", "sec", "secs"), "s"),
        **dict.fromkeys(("millisecond", "milliseconds"), "ms"),
        **dict.fromkeys(("degree", "degrees", "deg"), "deg"),
    }
)
NUMBER_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        word: str(number)
        for number, word in enumerate(
            ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
        )
    }
)


def _forms(verb: str) -> tuple[str, ...]:
    if verb in _NEVER_INFLECTED:
        return (f"{verb}s", f"{verb}ing") if verb in {"display", "present"} else ()
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    third = f"{verb}es" if verb.endswith(("s", "x", "ch", "sh")) else f"{verb}s"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        third = f"{verb[:-1]}ies"
    return third, f"{verb.removesuffix('e')}ing"


def _canonical() -> dict[str, str]:
    table = {word: group[0] for group in SYNONYMS for word in group}
    for group in SYNONYMS:
        for word in group if group[0] in _VERB_GROUPS else ():
            table.update({form: table[word] for form in _forms(word) if form not in table})
    return table


_CANONICAL: Final[Mapping[str, str]] = MappingProxyType(_canonical())
VERBS: Final = _VERB_GROUPS
"""Verbs in their basic form."""
AUXILIARIES: Final = frozenset({"is", "are", "with", "must", "can", "may", "will", "be"})
"""Words that make a sentence, too, if something stands before them and after them."""


def canonical_word(word: str) -> str:
    """Return the word that stands for all that say the same as `word`, a lower-case one."""
    return _CANONICAL.get(word, word)
