"""The small part of GraphQL that clients of RunPod write: one operation, its fields, their arguments.

What a client did not ask for it does not get, as with a real server: a forgotten field shows here, not in production.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TOKEN = re.compile(
    rf'"(?:[^"\\]|\\.)*"|#[^\n]*|{_NUMBER.pattern}(?!\w)|\$?\w+|[{{}}()\[\]:!=]',
    re.DOTALL,
)
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}


class BadQuery(Exception):
    """It is no query that this server understands; the message says why."""


@dataclass
class Selected:
    """A field that was asked for: its arguments, and the fields asked for within it."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    fields: list[Selected] = field(default_factory=list)


def parse_query(text: str, variables: Mapping[str, Any] | None = None) -> list[Selected]:
    """The fields of the one operation in `text`.

    Raises:
        BadQuery: it cannot be read.
    """
    reader = _Reader(text, variables or {})
    try:
        while reader.peek() != "{":
            token = reader.next()
            if token == "(":
                reader.skip_declarations()
        return reader.selection()
    except (IndexError, ValueError):
        raise BadQuery("Syntax Error: the query cannot be read") from None


def project(value: Any, fields: list[Selected], kind: str) -> Any:
    """Of a value only what was asked for; lists element by element.

    Raises:
        BadQuery: the value has no such field, or it has parts and none was asked for.
    """
    if isinstance(value, list):
        return [project(each, fields, kind) for each in value]
    if not isinstance(value, dict):
        return value
    if not fields:
        raise BadQuery(f"Field of type {kind} must have a selection of subfields")
    answer = {}
    for wanted in fields:
        if wanted.name not in value:
            raise BadQuery(f'Cannot query field "{wanted.name}" on type "{kind}".')
        answer[wanted.name] = project(value[wanted.name], wanted.fields, wanted.name)
    return answer


class _Reader:
    def __init__(self, text: str, variables: Mapping[str, Any]) -> None:
        self._tokens = [token for token in _TOKEN.findall(text) if not token.startswith("#")]
        self._at = 0
        self._variables = variables

    def peek(self) -> str:
        return self._tokens[self._at]

    def next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def expect(self, token: str) -> None:
        if self.next() != token:
            raise ValueError(token)

    def skip_declarations(self) -> None:
        while self.next() != ")":
            pass

    def selection(self) -> list[Selected]:
        self.expect("{")
        fields = []
        while self.peek() != "}":
            name = self.next()
            arguments = self.mapping("(", ")") if self.peek() == "(" else {}
            fields.append(Selected(name, arguments, self.selection() if self.peek() == "{" else []))
        self.expect("}")
        return fields

    def mapping(self, opening: str, closing: str) -> dict[str, Any]:
        self.expect(opening)
        found = {}
        while self.peek() != closing:
            name = self.next()
            self.expect(":")
            found[name] = self.value()
        self.expect(closing)
        return found

    def value(self) -> Any:
        if self.peek() == "{":
            return self.mapping("{", "}")
        token = self.next()
        if token == "[":
            values = []
            while self.peek() != "]":
                values.append(self.value())
            self.expect("]")
            return values
        if token.startswith("$"):
            return self._variables.get(token[1:])
        if token in _WORDS:
            return _WORDS[token]
        if token.startswith('"') or _NUMBER.fullmatch(token):
            return json.loads(token, strict=False)
        return token  # an enum
