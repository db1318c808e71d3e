"""What the tiny base is taught of English: synonyms, forms of verbs, and the everyday ways to put one or two requests.

The synonym groups were written by someone who knew the specialists' domain. No request of that domain stands here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def word_list(name: str) -> tuple[str, ...]:
    """The words of a committed list, in its order."""
    return tuple(_read(name).split())


def word_groups(name: str) -> dict[str, tuple[str, ...]]:
    """The synonym groups of a committed list, one a line; the first word of each is its canonical one."""
    groups = (tuple(line.split()) for line in _read(name).splitlines())
    return {group[0]: group for group in groups}


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


VERBS = word_groups("verbs.txt")
NOUNS = word_groups("nouns.txt")
# Canonical verb -> other ways to say it, of more than one word.
VERB_PHRASES = {
    "read": ("look at", "tell me about", "give me", "I want to see", "what is in", "let me see", "look up",
             "what does the"),
    "export": ("save out", "write out", "pull out", "get out"),
    "import": ("put back", "write back", "bring in", "take in"),
    "start": ("fire up", "load up", "switch to", "start up"),
    "advance": ("keep running", "go forward", "move on", "let it run"),
    "verify": ("make sure about", "run a check on", "is it valid, the", "test whether", "check for errors in"),
    "capture": ("take a picture of", "take a screenshot of", "make a snapshot of"),
    "build": ("turn into code", "compile and place"),
    "write": ("change the value of", "make equal"),
}  # fmt: skip
# Verbs whose object is the place that changes (`set A to B`), and verbs whose object is what is put there (`put B into
# A`), each with the words that announce the other one.
CHANGE_VERBS = (
    *("set", "change", "update", "modify", "overwrite", "fill", "make"),
    *("adjust", "replace", "swap", "patch", "turn", "force", "edit"),
)
PUT_VERBS = (
    *("put", "write", "store", "poke", "save", "place", "insert"),
    *("load", "copy", "send", "upload", "bring", "enter", "drop"),
    *("apply", "import"),
)
CHANGE_WORDS, PUT_WORDS = ("to", "to", "with", "by", "into", "from"), ("into", "to", "at", "in", "over", "as")
FILLERS = (
    *("please", "now", "can you", "I want to", "I need to", "for me", "next", "then", "quickly", "the", "this"),
    *("again", "if you can", "right now", "today", "so I can see", "before the meeting", "OK"),
)
# Ways to put a request that begins with its verb.
IMPERATIVE_FRAMES = (
    *("please {request}", "can you {request}?", "could you {request}?", "would you {request}?"),
    *("I want you to {request}", "I need you to {request}", "I would like to {request}", "let us {request}"),
    *("go ahead and {request}", "try to {request}", "time to {request}", "your task: {request}"),
    *("do not forget to {request}", "help me {request}", "we have to {request}", "be so kind and {request}"),
)
# Ways to put a request that name the thing first, or the verb as a participle or a noun.
OTHER_FRAMES = (
    *("the {thing} should be {participle} {values}", "I want the {thing} {participle} {values}"),
    *("have the {thing} {participle} {values}", "get the {thing} {participle} {values}"),
    *("I need the {thing} {participle} {values}", "{values}, the {thing} must be {participle}"),
    *("do a {verb} of the {thing} {values}", "make a {verb} of the {thing} {values}"),
    *("the {thing}: {verb} it {values}", "{values} I need a {verb} of the {thing}"),
)
CONNECTORS = (
    *(", then ", " and then ", " and ", ", ", ". Then ", "; after that ", ", afterwards ", " before you ", ", and "),
    *("; ", ", next ", ", finally "),
)
# {first} is called first, in whatever order they are said; {doing} is the first one with its verb as a gerund.
TWO_STEP_FRAMES = (
    *("{second} after you {first}", "{second} once you {first}", "after you {first}, {second}"),
    *("when you {first}, {second}", "{second} after {doing}", "after {doing}, {second}"),
    *("first {first}, second {second}", "{doing}, then {second}"),
    *("by {doing}, {second}", "{second} by {doing}"),
)
IRREGULAR_PARTICIPLES = {
    "read": "read", "show": "shown", "get": "got", "see": "seen", "write": "written", "set": "set", "put": "put",
    "make": "made", "overwrite": "overwritten", "take": "taken", "rip": "ripped", "bring": "brought", "begin": "begun",
    "run": "run", "find": "found", "send": "sent", "draw": "drawn",
}  # fmt: skip
DOUBLED = frozenset({"get", "put", "set", "rip", "begin", "run", "grab", "snap", "drop", "plot", "stop", "submit"})


def participle(verb: str) -> str:
    """`load` -> `loaded`."""
    if verb in IRREGULAR_PARTICIPLES:
        return IRREGULAR_PARTICIPLES[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return _doubled(verb) + "ed"


def gerund(verb: str) -> str:
    """`load` -> `loading`."""
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    return _doubled(verb) + "ing"


def _doubled(verb: str) -> str:
    return verb + verb[-1] if verb in DOUBLED else verb
