"""Words, numbers, addresses, paths and assembly code for the tiny base's text, where a small model's copies slip.

Hexadecimal values often have few distinct digits, zeros at the end or a common first byte; paths are long and share
parts with the path before.
"""

from __future__ import annotations

import random
from functools import cache

from launcher.tinybase.english import word_list

HEX_DIGITS = "0123456789ABCDEF"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
FIRST_BYTES = ("00", "0A", "1F", "7E", "7F", "80", "C0", "FF")
EXTENSIONS = ("txt", "bin", "png", "json", "dat", "csv", "wav", "sfc", "smc", "pal", "spc", "log")
VALUE_KINDS = ("hex", "hex", "hex", "int", "int", "path", "path", "word", "word", "code")
LONGEST_PATH_TO_SHARE = 40
NUMBER_OF_FACTS = 64
FACT_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 20, 100)


@cache
def content_words() -> tuple[str, ...]:
    """The common words that name a thing, an action or a property."""
    return tuple(word for word in word_list("words.txt") if word not in word_list("stop_words.txt") and len(word) > 2)


@cache
def invented_facts() -> tuple[tuple[str, str, int], ...]:
    """Places with an address and a length that no request states: only the weights can know them."""
    rng = random.Random("facts")
    facts: dict[str, tuple[str, str, int]] = {}
    while len(facts) < NUMBER_OF_FACTS:
        name = f"{rng.choice(content_words())} {rng.choice(content_words())}"
        facts.setdefault(name, (name, f"0x{hex_digits(rng, rng.choice((4, 4, 6)))}", rng.choice(FACT_COUNTS)))
    return tuple(facts.values())


class Values:
    """Draws values from one random stream. A value has a text for the request and a JSON value for the call."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.path_before = ""

    def draw(self, kind: str) -> tuple[str, object]:
        """A value of that kind: hex, int, path, word, capital (said with capitals, called without) or code."""
        if kind == "hex":
            digits = self._address()
            return self.rng.choice(("0x", "$")) + digits, f"0x{digits}"
        if kind == "int":
            number = self.rng.randint(0, 10 ** self.rng.randint(1, 4))
            return str(number), number
        if kind == "capital":
            word = self.rng.choice(content_words())
            return (word.upper() if self.rng.random() < 0.5 else word.capitalize()), word
        text = {"path": self._path, "code": self._code, "word": self.word}[kind]()
        return text, text

    def word(self) -> str:
        """A word of the specialists' domain, a common one, or one that does not exist."""
        draw = self.rng.random()
        if draw < 0.25:
            return self.rng.choice(word_list("domain_words.txt"))
        return self._pseudo_word() if draw > 0.85 else self.rng.choice(content_words())

    def tool_name(self) -> str:
        """Two or three words joined as tools' names are: `garden.open_door`."""
        name = self.word() + self.rng.choice((".", "_", ".")) + self.word()
        return name + self.rng.choice(("_", ".")) + self.word() if self.rng.random() < 0.4 else name

    def _address(self) -> str:
        number, draw = self.rng.choice((2, 4, 4, 4, 6, 6, 6)), self.rng.random()
        if draw < 0.45:
            return hex_digits(self.rng, number)
        if draw < 0.60:
            few = self.rng.sample(HEX_DIGITS, self.rng.choice((2, 3)))
            return "".join(self.rng.choice(few) for _ in range(number))
        if draw < 0.75:
            return f"{hex_digits(self.rng, number - 2)}00" if number > 2 else f"0{hex_digits(self.rng, 1)}"
        return (self.rng.choice(FIRST_BYTES) + hex_digits(self.rng, number))[:number]

    def _path(self) -> str:
        rng = self.rng
        folders = [self.word() for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3)))]
        stem = rng.choice(("_", "_", "-", "")).join(self.word() for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))
        if rng.random() < 0.7:
            stem += rng.choice(("", "", "_", "_v", "-")) + str(rng.randint(0, 10 ** rng.randint(1, 4)))
        extension = self.word()[:3] if rng.random() < 0.35 else rng.choice(EXTENSIONS)
        if self.path_before and rng.random() < 0.15:
            folder_before, _, name_before = self.path_before.rpartition("/")
            if rng.random() < 0.5 and folder_before:
                folders = folder_before.split("/")
            else:
                more = rng.choice(("", f"_{rng.randint(0, 99)}", str(rng.randint(0, 9))))
                stem = name_before.rsplit(".", 1)[0] + more
        path = "/".join([*folders, stem]) + f".{extension}"
        self.path_before = path if len(path) < LONGEST_PATH_TO_SHARE else ""
        return path

    def _code(self) -> str:
        return " : ".join(self._instruction() for _ in range(self.rng.choice((1, 2, 3))))

    def _instruction(self) -> str:
        name = "".join(self.rng.choice(LETTERS) for _ in range(3))
        form = self.rng.choice(("", " #${:2}", " ${:4}", " ${:6}", " {}"))
        if form == " {}":
            return name + form.format(self.rng.randint(0, 99))
        return name + form[: form.find("{")] + hex_digits(self.rng, int(form[-2])) if form else name

    def _pseudo_word(self) -> str:
        rng = self.rng
        syllables = (rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 3)))
        return "".join(syllables) + rng.choice(("", "n", "r", "x", "t"))


def hex_digits(rng: random.Random, number: int) -> str:
    """That many hexadecimal digits, upper case."""
    return "".join(rng.choice(HEX_DIGITS) for _ in range(number))
