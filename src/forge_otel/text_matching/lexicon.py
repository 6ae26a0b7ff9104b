"""The published word lists: synonyms, inflections, fillers, units and words around names.

The lists are short on purpose. Two words are synonyms only if exchanging them changes no component. `large` and `big`
are not, because both may name a size; nor are `click` and `tap`, or `select` and `choose`.
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
"""Groups of synonyms, each normalised to its first word; a group of one is a verb with inflections."""

_VERB_GROUPS: Final = frozenset(group[0] for group in SYNONYMS) - {
    *("with", "when", "while", "must", "entire", "color", "gray", "center"),
}
# Verbs that double their last consonant or are irregular.
_IRREGULAR: Final = {"let": ("lets", "letting"), "put": ("puts", "putting"), "submit": ("submits", "submitting")}
# Also names of states, slots and components, so their inflections are not normalised.
_NEVER_INFLECTED: Final = frozenset({"display", "present", "place", "signal", "focus", "report"})

ARTICLES: Final = frozenset({"a", "an", "the"})
FILLERS: Final = frozenset({"please", "kindly", "also", "additionally", "does", "do"})
"""Words without meaning, dropped at any position like articles."""

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
"""Openings of a sentence without meaning."""

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
"""Words that refer to another sentence, which makes the order of the sentences significant."""

NAMING: Final = frozenset(
    {
        *("labelled", "labeled", "titled", "named", "called", "says", "saying", "say", "reads", "reading"),
        *("labels", "titles", "props", "properties", "options", "variants", "states", "events", "values", "names"),
        *("types", "words", "slots", "tags", "classes"),
    }
)
"""Words followed by names, up to eight of them or the end of the sentence."""
LABEL_WORDS: Final = NAMING | {
    *("label", "title", "text", "caption", "placeholder", "heading", "prop", "property", "value", "option"),
    *("variant", "state", "type", "event", "name", "class", "id", "slot", "tag", "word"),
}
"""Words followed by up to three names, which are compared by their spelling."""
LINKS: Final = frozenset({"is", "are", "of", "to", "as", "should", "must", "it"})
"""Words that may separate a label word from the name."""
NO_NAMES: Final = frozenset(
    {"a", "an", "the", "and", "or", "in", "on", "at", "for", "with", "when", "while", "if", "then"}
)
"""Words that do not begin a name, except after a word of `NAMING`."""

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
"""Verbs in their base form."""
AUXILIARIES: Final = frozenset({"is", "are", "with", "must", "can", "may", "will", "be"})
"""Words that form a sentence with a word before and after them."""


def canonical_word(word: str) -> str:
    """Return the first synonym of a lower-case word's group, or the word itself."""
    return _CANONICAL.get(word, word)
