"""Endless generic text for the tiny base: chat turns whose answer is a JSON tool call made from the request.

It teaches the form, copying of values, everyday synonyms, several requests in one turn, and looking up invented facts.
No tool, phrasing or fact of the specialists' data stands in it; the words of their domain do (`domain_words.txt`), and
the synonym groups were written by someone who knew the domain. A document's kind is drawn by `Mixture`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
HEX_DIGITS = "0123456789ABCDEF"
CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
EXTENSIONS = ["txt", "bin", "png", "json", "dat", "csv", "wav", "sfc", "smc", "pal", "spc", "log"]
FILLERS = (
    *("please", "now", "can you", "I want to", "I need to", "for me", "next", "then", "quickly", "the", "this"),
    *("again", "if you can", "right now", "today", "so I can see", "before the meeting", "OK"),
)
SYSTEM_PROMPTS = (
    "You are a {a} assistant.",
    "You are the {a} {b} helper. Answer with one tool call.",
    "You are the {a} specialist. Answer with one tool call.",
    "Use the tools.",
    "{a} {b} agent. Reply with a call.",
)
# Argument -> (words that announce its value in a request, kinds of values). Calls list arguments in this order.
ROLES = {
    "address": (("at", "address", "starting at", "from address", "at address"), ("hex",)),
    "source": (("from", "of", "out of", "using"), ("path", "word")),
    "target": (("to", "into", "saved to", "and write it to", "to the file"), ("path", "hex")),
    "value": (("with", "value", "the value", "with value"), ("hex", "int")),
    "code": (("code", "the code", "with code"), ("code",)),
    "count": (("for", "length", "count", "times"), ("int",)),
    "format": (("as", "in", "in format"), ("word", "capital")),
    "id": (("number", "id", "with id"), ("int",)),
}
# Canonical verb -> everyday words for it: what a pretrained base knows of English.
SYNONYMS = {
    "read": "read show display print view get fetch dump inspect examine peek retrieve list see describe check report "
    "summarize",
    "write": "write set store put poke change modify update overwrite patch force make adjust",
    "export": "export extract save rip pull unpack take download output backup",
    "import": "import insert load replace bring reinsert apply add upload restore put update use",
    "start": "start launch boot open play run begin restart load",
    "advance": "advance step continue resume proceed forward run emulate execute",
    "verify": "verify validate test confirm check ensure audit",
    "capture": "capture snapshot screenshot grab snap record picture save",
    "build": "build assemble compile generate inject hook make insert",
    "delete": "delete remove erase clear drop wipe",
    "search": "search find locate query lookup",
    "send": "send mail deliver submit post share",
    "stop": "stop halt pause end quit close",
    "copy": "copy clone duplicate mirror",
    "move": "move shift transfer carry relocate",
    "draw": "draw paint sketch render plot",
    "count": "count measure sum total tally",
    "sort": "sort order rank arrange",
    "join": "join connect attach link merge",
    "lock": "lock close guard protect secure",
}
LONGER_WORDINGS = {
    "read": (
        "look at",
        "tell me about",
        "give me",
        "I want to see",
        "what is in",
        "let me see",
        "look up",
        "what does the",
    ),
    "export": ("save out", "write out", "pull out", "get out"),
    "import": ("put back", "write back", "bring in", "take in"),
    "start": ("fire up", "load up", "switch to", "start up"),
    "advance": ("keep running", "go forward", "move on", "let it run"),
    "verify": ("make sure about", "run a check on", "is it valid, the", "test whether", "check for errors in"),
    "capture": ("take a picture of", "take a screenshot of", "make a snapshot of"),
    "build": ("turn into code", "compile and place"),
    "write": ("change the value of", "make equal"),
}
CONNECTORS = (
    ", then ",
    " and then ",
    " and ",
    ", ",
    ". Then ",
    "; after that ",
    ", afterwards ",
    " before you ",
    ", and ",
)
STOP_WORDS = frozenset(
    [
        "and",
        "all",
        "any",
        "are",
        "as",
        "at",
        "by",
        "for",
        "from",
        "in",
        "is",
        "into",
        "it",
        "me",
        "my",
        "no",
        "not",
        "of",
        "on",
        "or",
        "so",
        "than",
        "that",
        "the",
        "then",
        "there",
        "this",
        "to",
        "up",
        "with",
        "you",
        "your",
        "be",
        "can",
        "i",
    ]
)
VALUE_KINDS = ("hex", "hex", "hex", "int", "int", "path", "path", "word", "word", "code")
FACT_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 20, 100)
NUMBER_OF_FACTS = 64


@dataclass(frozen=True)
class Document:
    """One chat: the prompt up to the assistant's turn, and the answer with the end of the turn."""

    prompt: str
    answer: str

    @classmethod
    def chat(cls, system: str, user: str, answer: str) -> Document:
        turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        return cls(turns, f"{answer}<|im_end|>")


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of documents. What is left over is copying."""

    facts: float
    several: float
    signature: float
    request: float


# Copying is learnt first: nothing else can be learnt without it.
OPENING = Mixture(facts=0.0, several=0.0, signature=0.2, request=0.2)
MAIN = Mixture(facts=0.07, several=0.17, signature=0.23, request=0.42)


@cache
def word_list(name: str) -> tuple[str, ...]:
    """The words of a committed list, in its order."""
    return tuple((HERE / name).read_text(encoding="utf-8").split())


@cache
def content_words() -> tuple[str, ...]:
    return tuple(word for word in word_list("words.txt") if word not in STOP_WORDS and len(word) > 2)


@cache
def invented_facts() -> tuple[tuple[str, str, int], ...]:
    """Places with an address and a length that no request states: only the weights can know them."""
    rng = random.Random("facts")
    facts: dict[str, tuple[str, str, int]] = {}
    while len(facts) < NUMBER_OF_FACTS:
        name = f"{rng.choice(content_words())} {rng.choice(content_words())}"
        address = "0x" + "".join(rng.choice(HEX_DIGITS) for _ in range(rng.choice((4, 4, 6))))
        facts.setdefault(name, (name, address, rng.choice(FACT_COUNTS)))
    return tuple(facts.values())


def call_text(name: str, arguments: dict[str, object]) -> str:
    """A tool call as the chat template writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


class Writer:
    """Writes documents from one random stream."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.last_path = ""

    def document(self, mixture: Mixture) -> Document:
        """One document of a kind drawn from the mixture."""
        self.last_path = ""
        draw = self.rng.random()
        for share, write in (
            (mixture.facts, self._fact),
            (mixture.several, self._several),
            (mixture.signature, self._signature),
            (mixture.request, self._single),
        ):
            if draw < share:
                return write()
            draw -= share
        return self._copy()

    # --- kinds of documents --------------------------------------------------------------------------------------

    def _signature(self) -> Document:
        """The system prompt lists tools with arguments; the request names one and gives its values in any order."""
        rng = self.rng
        tools = {}
        for _ in range(rng.choice((1, 2, 2, 3))):
            keys = dict.fromkeys(self._word() for _ in range(rng.choice((1, 2, 2, 3, 4))))
            tools[self._tool_name()] = list(keys)
        name = rng.choice(list(tools))
        values = {key: self._value(rng.choice(VALUE_KINDS)) for key in tools[name]}
        order = list(tools[name])
        rng.shuffle(order)
        forms = ("{k} {v}", "{k} {v}", "{k} is {v}", "{k}={v}", "{v} for {k}")
        said = rng.choice((", ", " and ", " ")).join(rng.choice(forms).format(k=k, v=values[k][0]) for k in order)
        verb = rng.choice(("call ", "run ", "use ", "", "do "))
        user = f"{self._opening()}{verb}{name}{rng.choice((' with ', ': ', ' ', ', '))}{said}"
        system = "Tools: " + ", ".join(f"{tool}({', '.join(keys)})" for tool, keys in tools.items())
        return Document.chat(system, self._capital(user), call_text(name, {k: values[k][1] for k in tools[name]}))

    def _single(self) -> Document:
        """One request; the tool's name is its object and its verb, or the canonical verb of its synonym group."""
        rng = self.rng
        verb, canonical = self._verb(canonical=rng.random() < 0.55)
        parts, arguments = self._arguments(
            rng.choice((0, 1, 1, 2, 2, 3)) if verb != canonical else rng.choice((1, 2, 2, 3, 3))
        )
        thing = self._word()
        middle = f"{verb}{rng.choice((' the ', ' ', ' a ', ' my '))}{thing}"
        if parts and rng.random() < 0.15:
            said = f"{parts[0]}, {middle} {' '.join(parts[1:])}"
        else:
            said = f"{middle} {rng.choice((' ', ' ', ', ')).join(parts)}"
        end = rng.choice(("", "", ".", "?", f" {rng.choice(FILLERS)}"))
        user = self._opening() + " ".join(said.split()) + end
        return Document.chat(self._system(), self._capital(user), call_text(f"{thing}.{canonical}", arguments))

    def _several(self) -> Document:
        """Two or three requests in one turn; a later one may speak of "it", or use the earlier one's path."""
        rng = self.rng
        canonical = rng.random() < 0.5
        said, calls = [], []
        thing, path = "", ""
        for index in range(rng.choice((2, 2, 2, 3))):
            refers = index > 0 and rng.random() < 0.3
            if not refers:
                thing = self._word()
            verb, name = self._verb(canonical)
            source = path if path and rng.random() < 0.5 else None
            parts, arguments = self._arguments(rng.choice((1, 1, 1, 2, 2, 3)), source)
            shown = rng.choice(("it", "that", "the result")) if refers else rng.choice(("the ", "", "a ")) + thing
            text = f"{verb} {shown} {rng.choice((' ', ', ')).join(parts)}"
            if parts and rng.random() < 0.12:
                text = f"{parts[0]} {verb} {shown} {' '.join(parts[1:])}"
            said.append(" ".join(text.split()))
            calls.append(call_text(f"{thing}.{name}", arguments))
            path = next((v for v in arguments.values() if isinstance(v, str) and "." in v), path)
        user = self._opening() + said[0] + "".join(rng.choice(CONNECTORS) + text for text in said[1:])
        return Document.chat(self._system(), self._capital(user), "\n".join(calls))

    def _fact(self) -> Document:
        """A named place whose address only the weights hold; the other values are copied."""
        rng = self.rng
        name, address, length = rng.choice(invented_facts())
        verb, canonical = self._verb(canonical=True) if rng.random() < 0.7 else (self._synonym("read"), "read")
        arguments: dict[str, object] = {"address": address}
        said = f"{verb} {rng.choice(('the ', '', 'the ', 'my '))}{name}"
        draw = rng.random()
        if draw < 0.35:
            shown, arguments["value"] = self._value(rng.choice(("hex", "int")))
            said += f" {rng.choice(('with', 'value', 'to', 'with value'))} {shown}"
        elif draw < 0.85:
            arguments["count"] = length
        if rng.random() < 0.3:
            shown, arguments["format"] = self._value(rng.choice(("word", "capital")))
            said += f" {rng.choice(('as', 'in', 'in format'))} {shown}"
        user = self._opening() + said + rng.choice(("", "", ".", "?", f" {rng.choice(FILLERS)}"))
        return Document.chat(
            self._system(), self._capital(user), call_text(f"{name.split()[1]}.{canonical}", arguments)
        )

    def _copy(self) -> Document:
        """Repeat some values, or pick one of them."""
        rng = self.rng
        values = [self._value(rng.choice(VALUE_KINDS))[0] for _ in range(rng.choice((1, 2, 3, 4)))]
        if rng.random() < 0.6:
            said = rng.choice((" ", ", ", " : ")).join(values)
            return Document.chat(self._system(), rng.choice(("Repeat: ", "Say ", "Copy ")) + said, said)
        index = rng.randrange(len(values))
        number = ("one", "two", "three", "four")[index]
        return Document.chat(self._system(), f"Pick {number} of: {', '.join(values)}", values[index])

    # --- pieces --------------------------------------------------------------------------------------------------

    def _verb(self, canonical: bool) -> tuple[str, str]:
        """A verb as said, and as the tool's name has it."""
        if not canonical:
            word = self._word()
            return word, word
        name = self.rng.choice(list(SYNONYMS))
        return self._synonym(name), name

    def _synonym(self, name: str) -> str:
        if name in LONGER_WORDINGS and self.rng.random() < 0.25:
            return self.rng.choice(LONGER_WORDINGS[name])
        return self.rng.choice(SYNONYMS[name].split())

    def _arguments(self, number: int, source: str | None = None) -> tuple[list[str], dict[str, object]]:
        """Values as said in a request, in any order, and as the call has them. `source` is known and not said."""
        said: list[str] = []
        arguments: dict[str, object] = {}
        for key in self.rng.sample(list(ROLES), number):
            if key == "source" and source is not None:
                arguments[key] = source
                continue
            words, kinds = ROLES[key]
            shown, arguments[key] = self._value(self.rng.choice(kinds))
            said.append(f"{self.rng.choice(words)} {shown}")
        return said, {key: arguments[key] for key in ROLES if key in arguments}

    def _value(self, kind: str) -> tuple[str, object]:
        """A value as said in a request and as it stands in the JSON."""
        rng = self.rng
        if kind == "hex":
            digits = self._hex()
            return rng.choice(("0x", "$")) + digits, "0x" + digits
        if kind == "int":
            number = rng.randint(0, 10 ** rng.randint(1, 4))
            return str(number), number
        if kind == "capital":
            word = rng.choice(content_words())
            return (word.upper() if rng.random() < 0.5 else word.capitalize()), word
        text = {"path": self._path, "code": self._code, "word": self._word}[kind]()
        return text, text

    def _hex(self) -> str:
        """2 to 6 digits; often few distinct ones, zeros at the end or a common first byte, where copies slip."""
        rng = self.rng
        number, draw = rng.choice((2, 4, 4, 4, 6, 6, 6)), rng.random()
        if draw < 0.45:
            return self._digits(number)
        if draw < 0.60:
            few = rng.sample(HEX_DIGITS, rng.choice((2, 3)))
            return "".join(rng.choice(few) for _ in range(number))
        if draw < 0.75:
            return self._digits(number - 2) + "00" if number > 2 else "0" + self._digits(1)
        return (rng.choice(("00", "0A", "1F", "7E", "7F", "80", "C0", "FF")) + self._digits(number))[:number]

    def _digits(self, number: int) -> str:
        return "".join(self.rng.choice(HEX_DIGITS) for _ in range(number))

    def _path(self) -> str:
        """Up to three folders and a joined stem; sometimes it shares folder or stem with the path before."""
        rng = self.rng
        folders = [self._word() for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3)))]
        stem = rng.choice(("_", "_", "-", "")).join(self._word() for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))
        if rng.random() < 0.7:
            stem += rng.choice(("", "", "_", "_v", "-")) + str(rng.randint(0, 10 ** rng.randint(1, 4)))
        extension = self._word()[:3] if rng.random() < 0.35 else rng.choice(EXTENSIONS)
        if self.last_path and rng.random() < 0.15:
            last_folder, _, last_name = self.last_path.rpartition("/")
            if rng.random() < 0.5 and last_folder:
                folders = last_folder.split("/")
            else:
                stem = last_name.rsplit(".", 1)[0] + rng.choice(("", f"_{rng.randint(0, 99)}", str(rng.randint(0, 9))))
        path = "/".join([*folders, stem]) + f".{extension}"
        self.last_path = path if len(path) < 40 else ""
        return path

    def _code(self) -> str:
        return " : ".join(self._instruction() for _ in range(self.rng.choice((1, 2, 3))))

    def _instruction(self) -> str:
        rng = self.rng
        name = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(3))
        operands = (
            "",
            f" #${self._digits(2)}",
            f" ${self._digits(4)}",
            f" ${self._digits(6)}",
            f" {rng.randint(0, 99)}",
        )
        return name + rng.choice(operands)

    def _word(self) -> str:
        draw = self.rng.random()
        if draw < 0.25:
            return self.rng.choice(word_list("domain_words.txt"))
        return self._pseudo_word() if draw > 0.85 else self.rng.choice(content_words())

    def _pseudo_word(self) -> str:
        rng = self.rng
        syllables = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 3)))
        return syllables + rng.choice(("", "n", "r", "x", "t"))

    def _tool_name(self) -> str:
        rng = self.rng
        name = self._word() + rng.choice((".", "_", ".")) + self._word()
        return name + rng.choice(("_", ".")) + self._word() if rng.random() < 0.4 else name

    def _system(self) -> str:
        return self.rng.choice(SYSTEM_PROMPTS).format(a=self._word(), b=self._word())

    def _opening(self) -> str:
        return self.rng.choice(("", "", f"{self.rng.choice(FILLERS)} "))

    def _capital(self, text: str) -> str:
        return text[0].upper() + text[1:] if self.rng.random() < 0.6 else text


def sample_documents(seed: str, number: int, mixture: Mixture = MAIN) -> Sequence[Document]:
    """Some documents of one stream, for the tokenizer and for looking at."""
    writer = Writer(random.Random(seed))
    return [writer.document(mixture) for _ in range(number)]
