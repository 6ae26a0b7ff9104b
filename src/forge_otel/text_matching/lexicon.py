"""Closed lists of words that may be rewritten, and of words around which nothing may be rewritten.

Every entry is safe at the position where `forge_otel.text_matching.facts` applies it. A word that may also be a name, a
state or another part of speech (`present`, `click`, `large`) is on no list: a missing entry costs a cache hit, a wrong
one answers with another component.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = [
    "ABBREVIATIONS",
    "ABOUT_READERS",
    "AMERICAN",
    "BEFORE_COUNTS",
    "CONDITIONS",
    "CONTRACTIONS",
    "DETERMINERS",
    "FINITE",
    "IMPERATIVES",
    "LITERAL_AFTER",
    "NOT_MOVABLE",
    "NUMBER_WORDS",
    "PERFECT",
    "POLITE",
    "POLITE_QUESTIONS",
    "QUESTION_VERBS",
    "READERS",
    "UNITS",
    "VERB_OF",
]

_VERBS: Final = (
    ("show", "display"),
    ("use", "apply"),
    ("create", "build"),
    ("hide", "conceal"),
    ("keep", "retain", "preserve"),
    ("provide", "supply"),
    ("alter", "modify"),
    ("notify", "inform"),
)
ABOUT_READERS: Final = frozenset({"notify", "inform"})
"""Verbs whose object may be a person and that still say the same."""
VERB_OF: Final[Mapping[str, str]] = MappingProxyType({verb: group[0] for group in _VERBS for verb in group})
"""Verbs that say the same as the first word of an imperative sentence, before a determiner, and nowhere else."""

IMPERATIVES: Final = frozenset(VERB_OF) | frozenset(
    {
        *("add", "align", "allow", "animate", "avoid", "center", "close", "collapse", "disable", "do", "don't"),
        *("enable", "expand", "fill", "focus", "give", "highlight", "include", "increase", "let", "limit", "load"),
        *("lock", "make", "mark", "move", "never", "only", "open", "order", "pin", "reduce", "remove", "render"),
        *(
            "call",
            "change",
            "label",
            "name",
            "place",
            "position",
            "put",
            "replace",
            "reset",
            "round",
            "scroll",
            "select",
            "set",
            "shrink",
            "sort",
            "start",
            "stop",
            "submit",
        ),
        *("support", "swap", "toggle", "trigger", "truncate", "turn", "update", "wrap"),
    }
)
"""Words with which an order begins."""

DETERMINERS: Final = frozenset(
    {"a", "an", "the", "this", "these", "each", "every", "all", "no", "any", "its", "their", "your", "our"}
)
"""Words after which a noun follows, so that the word before them is a verb."""

POLITE: Final[tuple[tuple[str, ...], ...]] = (
    ("please",),
    ("kindly",),
    ("make", "sure", "that", "you"),
    ("make", "sure", "you"),
    ("make", "sure", "to"),
    ("make", "sure", "that"),
    ("ensure", "that"),
    ("be", "sure", "to"),
    ("remember", "to"),
    ("we", "would", "like", "you", "to"),
    ("i", "would", "like", "you", "to"),
    ("we", "want", "you", "to"),
    ("i", "want", "you", "to"),
    ("we", "need", "you", "to"),
    ("i", "need", "you", "to"),
)
"""Openings of an order that add nothing to it."""

POLITE_QUESTIONS: Final[tuple[tuple[str, ...], ...]] = (
    ("could", "you"),
    ("can", "you"),
    ("would", "you"),
    ("will", "you"),
)
"""Openings that make a question of an order; the question mark goes with them."""

CONTRACTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        **{
            f"{verb}n't": (verb, "not")
            for verb in (
                *("are", "could", "did", "do", "does", "had", "has", "have", "is", "must", "need", "should", "was"),
                *("were", "would"),
            )
        },
        "can't": ("can", "not"),
        "cannot": ("can", "not"),
        "won't": ("will", "not"),
        "they're": ("they", "are"),
        "you're": ("you", "are"),
        "we're": ("we", "are"),
        "you'll": ("you", "will"),
        "they'll": ("they", "will"),
        "it'll": ("it", "will"),
        "it's": ("it", "is"),
        "that's": ("that", "is"),
        "there's": ("there", "is"),
    }
)
"""Contractions and their words; before `PERFECT`, 's means `has`, and stays as it is."""
PERFECT: Final = frozenset({"been", "got", "had", "become"})

_SPELLINGS: Final = (
    "behaviour:behavior cancelled:canceled cancelling:canceling catalogue:catalog centre:center centred:centered "
    "centres:centers colour:color coloured:colored colours:colors favourite:favorite favourites:favorites grey:gray "
    "greyed:grayed neighbour:neighbor neighbouring:neighboring neighbours:neighbors metre:meter metres:meters"
)
_IZE: Final = (
    "capitalize categorize customize emphasize finalize initialize localize maximize minimize normalize optimize "
    "organize personalize prioritize realize recognize summarize synchronize utilize visualize"
)
AMERICAN: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict(pair.split(":") for pair in _SPELLINGS.split()),
        **{
            f"{verb[:-2]}s{end}": f"{verb[:-1]}{end}"
            for verb in _IZE.split()
            for end in ("e", "ed", "es", "ing", "ation")
        },
    }
)
"""British spellings and their American ones."""

UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{unit: unit for unit in ("px", "pt", "rem", "em", "vh", "vw", "dp", "ms", "fr", "ch", "deg", "kB", "%")},
        **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
        **dict.fromkeys(("pixel", "pixels"), "px"),
        **dict.fromkeys(("degree", "degrees"), "deg"),
        **dict.fromkeys(("millisecond", "milliseconds"), "ms"),
        "percent": "%",
    }
)
"""Spellings of a unit directly behind a number; their case counts."""

NUMBER_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        word: str(number)
        for number, word in enumerate(
            ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), 1
        )
    }
)

BEFORE_COUNTS: Final = IMPERATIVES | {
    *("a", "an", "the", "these", "those", "all", "has", "have", "having", "contains", "shows", "of", "with", "in"),
    *("are", "is", "only", "exactly", "least", "most", "to", "by", "for", "between", "after", "than", "and", "or"),
    *("over", "within", "every", "into", "across"),
}
"""Words between which and a plural noun a number word is a count, and no name."""

CONDITIONS: Final = frozenset({"when", "whenever", "if", "while", "unless"})
"""Words with which a condition begins that may stand before or behind what depends on it."""

QUESTION_VERBS: Final = frozenset(
    {
        *("announce", "ask", "check", "choose", "confirm", "decide", "describe", "detect", "determine", "explain"),
        *("find", "guess", "indicate", "inform", "know", "log", "mention", "notify", "read", "record", "remember"),
        *("report", "say", "see", "signal", "specify", "state", "tell", "test", "verify", "warn", "wonder", "write"),
    }
)
"""Verbs behind which `when` and `if` may begin an indirect question: "check if it is valid"."""

READERS: Final = frozenset(
    {
        *("admin", "admins", "author", "buyer", "customer", "customers", "editor", "everyone", "guest", "guests"),
        *("me", "member", "members", "owner", "owners", "people", "person", "reader", "readers", "them", "us", "user"),
        *("users", "viewer", "viewers", "visitor", "visitors"),
    }
)
"""Persons to whom something may be shown: "show users when the shop opens" is an indirect question, too."""

NOT_MOVABLE: Final = frozenset(
    {
        *("and", "or", "but", "nor", "so", "then", "also", "only", "else", "otherwise", "instead", "too", "even"),
        *("not", "no", "never", "just", "still", "again", "already", "first", "last", "next", "both", "either"),
        *("that", "which", "who", "whom", "whose", "where", "how", "what", "why", "because", "until", "before"),
        *("after", "once", "since", "though", "although", "as", "like", "than", "to", "for", "by", "with", "without"),
        *("from", "of", "about", "except", "it", "its", "itself", "this", "these", "those", "they", "them", "their"),
        *("he", "she", "his", "her", "him", "one", "ones", "same", "other", "others", "another", "such", "each"),
        *("must", "should", "shall", "may", "might", "can", "could", "would", "will", "is", "are", "was", "were"),
        *("time", "times", "date", "dates", "day", "days", "hour", "hours", "minute", "minutes", "moment", "period"),
        *("week", "month", "year", "case", "cases", "situation", "point", "reason", "condition", "question", "event"),
        *("be", "been", "being", "has", "have", "had", "does", "do", "did", "there", "here"),
    }
)
"""Words in a main clause that a condition could attach or point to; such a sentence stays as it is."""

LITERAL_AFTER: Final = frozenset(
    {
        *("label", "labels", "labelled", "labeled", "title", "titles", "titled", "text", "texts", "caption", "heading"),
        *("headline", "placeholder", "word", "words", "message", "messages", "copy", "wording", "phrase", "string"),
        *("named", "called", "call", "name", "names", "says", "say", "saying", "reads", "read", "reading", "spelled"),
        *("prop", "props", "property", "properties", "option", "options", "variant", "variants", "state", "states"),
        *("value", "values", "type", "types", "event", "events", "class", "classes", "id", "ids", "slot", "slots"),
        *("tag", "tags", "token", "tokens", "variable", "variables", "theme", "mode", "key", "keys", "keyword"),
        *("attribute", "attributes", "parameter", "argument", "function", "method", "version"),
        *("e.g", "i.e", "example", "namely", "eg"),
    }
)
"""Words around which names stand: they, the word before them and the rest of the sentence count as they are spelt."""

FINITE: Final = frozenset(
    {
        *("is", "are", "was", "were", "must", "should", "shall", "may", "might", "can", "could", "will", "would"),
        *("has", "have"),
    }
)
"""Verbs that make a clause a sentence of its own."""

ABBREVIATIONS: Final = frozenset({"e.g", "i.e", "etc", "approx", "vs", "min", "max", "no", "fig", "cf", "incl", "eg"})
"""Words behind which a full stop ends no sentence."""
