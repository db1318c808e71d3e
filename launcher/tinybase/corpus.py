"""Endless generic text for the tiny base: chat turns whose answer is a JSON tool call made from the request.

It teaches the form, copying of values, everyday synonyms, several requests in one turn, and looking up invented facts.
No tool, phrasing or fact of the specialists' data stands in it; words of their domain do (`domain_words.txt`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.tinybase.english import (
    CHANGE_VERBS,
    CHANGE_WORDS,
    CONNECTORS,
    FILLERS,
    IMPERATIVE_FRAMES,
    NOUNS,
    OTHER_FRAMES,
    PUT_VERBS,
    PUT_WORDS,
    TWO_STEP_FRAMES,
    VERB_PHRASES,
    VERBS,
    gerund,
    participle,
)
from launcher.tinybase.values import VALUE_KINDS, Values, invented_facts

SYSTEM_PROMPTS = (
    "You are a {a} assistant.",
    "You are the {a} {b} helper. Answer with one tool call.",
    "You are the {a} specialist. Answer with one tool call.",
    "You are {a}-{b}, an expert {c} assistant.",
    "Use the tools.",
    "{a} {b} agent. Reply with a call.",
)
# Argument -> (words that announce its value in a request, kinds of values). Calls list arguments in this order.
ROLES = {
    "address": (("at", "address", "starting at", "from address", "at address"), ("hex",)),
    "source": (("from", "of", "out of", "using"), ("path", "path", "word")),
    "target": (("to", "into", "saved to", "and write it to", "to the file", "in"), ("path", "path", "hex")),
    "value": (("with", "value", "the value", "with value"), ("hex", "hex", "int")),
    "code": (("code", "the code", "with code"), ("code",)),
    "count": (("for", "length", "count", "times"), ("int",)),
    "format": (("as", "in", "in format"), ("word", "capital")),
    "id": (("number", "id", "with id"), ("int",)),
}
POSITIONS = ("one", "two", "three", "four")
# Values of one kind that a request sets against each other: which is which has to be understood, not guessed.
CONFUSABLE_ROLES = (("source", "target"), ("address", "value"), ("address", "target"), ("count", "id"))
# Kinds of (what is put, where it is put).
PUT_KINDS = (("hex", "hex"), ("hex", "hex"), ("int", "hex"), ("path", "path"), ("path", "path"), ("path", "word"))


@dataclass(frozen=True)
class Document:
    """One chat: the prompt up to the assistant's turn, and the answer with the end of the turn."""

    prompt: str
    answer: str

    @property
    def length(self) -> int:
        """In characters, which is near enough to put documents of one length together."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of documents; what is left over repeats or picks values."""

    fact: float
    several: float
    signature: float
    single: float


# Copying is learnt first: nothing else can be learnt without it.
OPENING = Mixture(fact=0.0, several=0.0, signature=0.2, single=0.2)
MAIN = Mixture(fact=0.07, several=0.22, signature=0.18, single=0.43)


@dataclass(frozen=True)
class Request:
    """One request without its opening: `text` begins with a verb; `doing` is the same with the verb as a gerund."""

    text: str
    doing: str
    name: str
    arguments: dict[str, object]


class Writer:
    """Writes documents from one random stream."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.values = Values(rng)

    def document(self, mixture: Mixture) -> Document:
        """One document of a kind drawn from the mixture."""
        self.values.path_before = ""
        draw = self.rng.random()
        writers = (self._fact, self._several, self._signature, self._single)
        shares = (mixture.fact, mixture.several, mixture.signature, mixture.single)
        for share, write in zip(shares, writers, strict=True):
            if draw < share:
                return write()
            draw -= share
        return self._copy()

    def _single(self) -> Document:
        """One request; the tool's name is its object and its verb, each said by another word of its group at times."""
        rng = self.rng
        said_thing, thing = self._thing()
        if rng.random() < 0.2:
            put = self._put(said_thing, thing)
            return self._chat(put.text, [(put.name, put.arguments)])
        if rng.random() < 0.3:
            verb = name = self.values.word()
            said, arguments = self._arguments(rng.choice((1, 2, 2, 3, 3)))
        else:
            name = rng.choice(list(VERBS))
            verb = self._verb(name)
            said, arguments = self._arguments(rng.choice((0, 1, 1, 2, 2, 3)))
        if verb in VERBS.get(name, ()) and rng.random() < 0.3:
            frame = rng.choice(OTHER_FRAMES)
            text = frame.format(verb=verb, participle=participle(verb), thing=said_thing, values=", ".join(said))
        else:
            text = self._imperative(verb, rng.choice(("the ", "", "a ", "my ")) + said_thing, said)
            text = rng.choice(IMPERATIVE_FRAMES).format(request=text) if rng.random() < 0.3 else text
        return self._chat(text, [(f"{thing}.{name}", arguments)])

    def _several(self) -> Document:
        """Two to four requests in one turn; a later one may speak of "it", or use the earlier one's path."""
        rng = self.rng
        canonical = rng.random() < 0.7
        requests: list[Request] = []
        for _ in range(rng.choice((2, 2, 2, 2, 3, 3, 3, 4))):
            requests.append(self._request(canonical, requests))
        if len(requests) == 2 and rng.random() < 0.35:
            first, second = requests
            text = rng.choice(TWO_STEP_FRAMES).format(first=first.text, second=second.text, doing=first.doing)
        else:
            text = requests[0].text + "".join(rng.choice(CONNECTORS) + request.text for request in requests[1:])
        return self._chat(text, [(request.name, request.arguments) for request in requests])

    def _request(self, canonical: bool, before: list[Request]) -> Request:
        rng = self.rng
        said_thing, thing = self._thing()
        if rng.random() < 0.15:
            return self._put(said_thing, thing)
        shown = rng.choice(("the ", "", "a ")) + said_thing
        if before and rng.random() < 0.3:
            thing, shown = before[-1].name.partition(".")[0], rng.choice(("it", "that", "the result"))
        name = rng.choice(list(VERBS)) if canonical else self.values.word()
        verb = rng.choice(VERBS[name]) if canonical else name
        paths = [v for request in before for v in request.arguments.values() if isinstance(v, str) and "." in v]
        known = {"source": paths[-1]} if paths and rng.random() < 0.5 else {}
        said, arguments = self._arguments(rng.choice((1, 1, 1, 2, 2, 3)), known)
        rest = " ".join([shown, rng.choice((" ", ", ")).join(said)])
        front = f"{said[0]} " if said and rng.random() < 0.12 else ""
        text = f"{front}{verb} {shown} {' '.join(said[1:])}" if front else f"{verb} {rest}"
        return Request(text.strip(), f"{gerund(verb)} {rest}".strip(), f"{thing}.{name}", arguments)

    def _put(self, said_thing: str, thing: str) -> Request:
        """One value put in the place of another: the verb says which is which (`set A to B`, `put B into A`)."""
        rng = self.rng
        moved_kind, place_kind = rng.choice(PUT_KINDS)
        (said_moved, moved), (said_place, place) = self.values.draw(moved_kind), self.values.draw(place_kind)
        if rng.random() < 0.5:
            verb, rest = rng.choice(CHANGE_VERBS), f"{said_place} {rng.choice(CHANGE_WORDS)} {said_moved}"
        else:
            verb, rest = rng.choice(PUT_VERBS), f"{said_moved} {rng.choice(PUT_WORDS)} {said_place}"
        shown = f"{rng.choice(('in', 'of', 'for', 'on'))} {rng.choice(('the ', '', 'my '))}{said_thing}"
        front, end = (f"{shown} ", "") if rng.random() < 0.3 else ("", f" {shown}")
        name = "import" if moved_kind == "path" else "write"
        arguments = {"target": place, "value": moved}
        return Request(f"{front}{verb} {rest}{end}", f"{gerund(verb)} {rest} {shown}", f"{thing}.{name}", arguments)

    def _fact(self) -> Document:
        """A named place whose address, or address and length, only the weights hold; other values are copied."""
        rng = self.rng
        place, address, length = rng.choice(invented_facts())
        name = rng.choice(list(VERBS)) if rng.random() < 0.7 else "read"
        arguments: dict[str, object] = {"address": address}
        said = []
        draw = rng.random()
        if draw < 0.35:
            shown, arguments["value"] = self.values.draw(rng.choice(("hex", "int")))
            said.append(f"{rng.choice(('with', 'value', 'to', 'with value'))} {shown}")
        elif draw < 0.85:
            arguments["count"] = length
        if rng.random() < 0.3:
            shown, arguments["format"] = self.values.draw(rng.choice(("word", "capital")))
            said.append(f"{rng.choice(('as', 'in', 'in format'))} {shown}")
        verb = self._verb(name)
        if verb in VERBS[name] and rng.random() < 0.25:
            frame = rng.choice(OTHER_FRAMES)
            text = frame.format(verb=verb, participle=participle(verb), thing=place, values=" ".join(said))
        else:
            text = f"{verb} {rng.choice(('the ', '', 'the ', 'my '))}{place} {' '.join(said)}"
        return self._chat(text, [(f"{place.split()[1]}.{name}", arguments)])

    def _signature(self) -> Document:
        """The system prompt lists tools with their arguments; the request gives one tool's values in any order."""
        rng = self.rng
        tools = {}
        for _ in range(rng.choice((1, 2, 2, 3))):
            keys = dict.fromkeys(self.values.word() for _ in range(rng.choice((1, 2, 2, 3, 4))))
            tools[self.values.tool_name()] = list(keys)
        name = rng.choice(list(tools))
        values = {key: self.values.draw(rng.choice(VALUE_KINDS)) for key in tools[name]}
        forms = ("{key} {value}", "{key} {value}", "{key} is {value}", "{key}={value}", "{value} for {key}")
        said = [rng.choice(forms).format(key=key, value=values[key][0]) for key in tools[name]]
        rng.shuffle(said)
        verb = rng.choice(("call ", "run ", "use ", "", "do "))
        text = f"{verb}{name}{rng.choice((' with ', ': ', ' ', ', '))}{rng.choice((', ', ' and ', ' ')).join(said)}"
        system = "Tools: " + ", ".join(f"{tool}({', '.join(keys)})" for tool, keys in tools.items())
        return self._chat(text, [(name, {key: values[key][1] for key in tools[name]})], system)

    def _copy(self) -> Document:
        """Repeat some values, or pick one of them."""
        rng = self.rng
        values = [self.values.draw(rng.choice(VALUE_KINDS))[0] for _ in range(rng.choice((1, 2, 3, 4)))]
        if rng.random() < 0.6:
            said = rng.choice((" ", ", ", " : ")).join(values)
            return _document(self._system_prompt(), rng.choice(("Repeat: ", "Say ", "Copy ")) + said, said)
        index = rng.randrange(len(values))
        return _document(self._system_prompt(), f"Pick {POSITIONS[index]} of: {', '.join(values)}", values[index])

    def _thing(self) -> tuple[str, str]:
        """An object as said, and as the tool's name has it."""
        if self.rng.random() < 0.25:
            name = self.rng.choice(list(NOUNS))
            return self.rng.choice(NOUNS[name]), name
        word = self.values.word()
        return word, word

    def _verb(self, name: str) -> str:
        """One way to say that canonical verb."""
        phrases = VERB_PHRASES.get(name, ()) if self.rng.random() < 0.25 else ()
        return self.rng.choice(phrases or VERBS[name])

    def _imperative(self, verb: str, thing: str, said: list[str]) -> str:
        if said and self.rng.random() < 0.15:
            return f"{said[0]}, {verb} {thing} {' '.join(said[1:])}"
        return f"{verb} {thing} {self.rng.choice((' ', ' ', ', ')).join(said)}"

    def _arguments(self, number: int, known: Mapping[str, object] | None = None) -> tuple[list[str], dict[str, object]]:
        """Values as said in a request, in any order, and as the call has them. `known` ones are not said again."""
        said, arguments = [], dict[str, object]()
        keys = self.rng.sample(list(ROLES), number)
        if number > 1 and self.rng.random() < 0.3:
            keys = list(dict.fromkeys([*self.rng.choice(CONFUSABLE_ROLES), *keys]))[:number]
            self.rng.shuffle(keys)
        for key in keys:
            if known and key in known:
                arguments[key] = known[key]
                continue
            words, kinds = ROLES[key]
            shown, arguments[key] = self.values.draw(self.rng.choice(kinds))
            said.append(f"{self.rng.choice(words)} {shown}")
        return said, {key: arguments[key] for key in ROLES if key in arguments}

    def _chat(self, text: str, calls: list[tuple[str, dict[str, object]]], system: str = "") -> Document:
        """The request with an opening and an end as people put them, and its calls."""
        rng = self.rng
        text = " ".join(rng.choice(("", "", f"{rng.choice(FILLERS)} ")).split() + text.split())
        if not text.endswith("?"):
            text += rng.choice(("", "", "", ".", "?", f" {rng.choice(FILLERS)}"))
        if rng.random() < 0.6:
            text = text[0].upper() + text[1:]
        return _document(system or self._system_prompt(), text, "\n".join(call_text(*call) for call in calls))

    def _system_prompt(self) -> str:
        words = {slot: self.values.word() for slot in "abc"}
        return self.rng.choice(SYSTEM_PROMPTS).format(**words)


def call_text(name: str, arguments: dict[str, object]) -> str:
    """A tool call as the chat template writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def sample_documents(seed: str, number: int, mixture: Mixture = MAIN) -> list[Document]:
    """Some documents of one stream, for the tokenizer and for looking at."""
    writer = Writer(random.Random(seed))
    return [writer.document(mixture) for _ in range(number)]


def _document(system: str, user: str, answer: str) -> Document:
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    return Document(turns, f"{answer}<|im_end|>")
