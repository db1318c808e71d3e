"""Read JSON values one by one from a file that holds an object, an array, or one value a line.

A file is never held whole in memory, except one that is a single object. What cannot be read comes as a fault with its
place, so that a reader can go on and report all of them at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

LINE_SUFFIXES = (".jsonl", ".ndjson")
BLOCK_CHARACTERS = 1 << 16


@dataclass(frozen=True)
class Located:
    """One value with its place (`data.json: example 3`), or the fault that is there in its place."""

    where: str
    value: Any = None
    fault: str | None = None


def iter_values(path: Path) -> Iterator[Located]:
    """Every value of the file, in order; an unreadable file is one fault."""
    try:
        # A byte order mark is what some editors put in front; it is no part of the data.
        with path.open(encoding="utf-8-sig") as file:
            yield from _values(file, path)
    except UnicodeDecodeError as fault:
        yield Located(str(path), fault=f"not UTF-8 text ({fault.reason} at byte {fault.start})")
    except OSError as fault:
        yield Located(str(path), fault=f"cannot be read ({fault.strerror})")


def _values(file: TextIO, path: Path) -> Iterator[Located]:
    if path.suffix.lower() not in LINE_SUFFIXES:
        is_array = file.read(BLOCK_CHARACTERS).lstrip().startswith("[")
        file.seek(0)
        if is_array:
            yield from _array(file, path)
            return
        first = next((line for line in file if line.strip()), "")
        file.seek(0)
        if first and isinstance(_parse(first), str):
            # Not one value a line: the whole file is one value.
            yield _located(str(path), file.read())
            return
    for number, line in enumerate(file, 1):
        if line.strip():
            yield _located(f"{path}: line {number}", line)


def _located(where: str, text: str) -> Located:
    parsed = _parse(text)
    return Located(where, fault=parsed) if isinstance(parsed, str) else Located(where, parsed[0])


def _parse(text: str) -> tuple[Any] | str:
    """The value in a tuple, or what is wrong with the text."""
    try:
        return (json.loads(text, parse_constant=_refuse_constant),)
    except json.JSONDecodeError as fault:
        place = f"line {fault.lineno}, column {fault.colno}" if "\n" in text.strip() else f"column {fault.colno}"
        return f"not JSON ({fault.msg} at {place})"
    except (ValueError, RecursionError) as fault:
        return f"not JSON ({fault})"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _array(file: TextIO, path: Path) -> Iterator[Located]:
    """The elements of an array; after the first broken one nothing more can be found."""
    window = _Window(file)
    assert window.next_character() == "["
    window.skip()
    index = 0
    while window.next_character() != "]":
        if index and window.next_character() != ",":
            yield Located(f"{path}: line {window.line()}", fault="not JSON (expected `,` or `]` after an element)")
            return
        if index:
            window.skip()
        index += 1
        window.next_character()
        where = f"{path}: example {index} (line {window.line()})"
        try:
            yield Located(where, window.take_value())
        except (ValueError, RecursionError) as fault:
            reason = fault.msg if isinstance(fault, json.JSONDecodeError) else str(fault)
            yield Located(where, fault=f"not JSON ({reason}); what follows it was not read")
            return
    window.skip()
    if window.next_character():
        yield Located(f"{path}: line {window.line()}", fault="not JSON (text after the end of the array)")


class _Window:
    """The part of a text file that is being parsed: grows until a value is whole, forgets what was taken."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)
        self._text = ""
        self._position = 0
        self._lines_forgotten = 0

    def next_character(self) -> str:
        """The next character that is not blank, without taking it; empty at the end of the file."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in " \t\r\n":
                self._position += 1
            if self._position < len(self._text) or not self._grow(BLOCK_CHARACTERS):
                return self._text[self._position : self._position + 1]

    def skip(self) -> None:
        self._position += 1

    def line(self) -> int:
        return 1 + self._lines_forgotten + self._text.count("\n", 0, self._position)

    def take_value(self) -> Any:
        """Parse one value.

        Raises:
            ValueError: no whole value stands here.
            RecursionError: it is nested too deep.
        """
        self._lines_forgotten += self._text.count("\n", 0, self._position)
        self._text, self._position = self._text[self._position :], 0
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text)
            except json.JSONDecodeError:
                # Doubling keeps the work linear where the value is broken and the file is long.
                if not self._grow(max(BLOCK_CHARACTERS, len(self._text))):
                    raise
                continue
            # A number that touches the end of the window may go on in the next block.
            if end < len(self._text) or not self._grow(BLOCK_CHARACTERS):
                self._position = end
                return value

    def _grow(self, characters: int) -> bool:
        block = self._file.read(characters)
        self._text += block
        return bool(block)
