"""pydantic's validation errors as lines a user can act on: file, field path, value, what would be right."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_MESSAGES = {
    "bool_type": "true or false is needed",
    "int_type": "a whole number is needed",
    "float_type": "a number is needed",
    "finite_number": "a finite number is needed; for 'no limit' leave the field out",
    "string_type": "text is needed; put it in quotes",
    "tuple_type": "a list is needed",
    "model_type": "a mapping of fields (key: value) is needed",
    "dict_type": "a mapping (key: value) is needed",
    "invalid_key": "a key must be a plain word",
}


def fault_lines(error: ValidationError, model: type[BaseModel], file_of: Callable[[tuple[Any, ...]], str]) -> list[str]:
    """One line per fault of `error`; `file_of` tells in which file the field at a path stands."""
    return [
        printable(f"{file_of(details['loc'])}: {line}")
        for details in error.errors()
        for line in _fault_lines(details, model)
    ]


def _fault_lines(details: ErrorDetails, model: type[BaseModel]) -> Iterator[str]:
    loc, kind = details["loc"], details["type"]
    path = ".".join(str(part) for part in loc if part != "[key]")
    if kind == "missing":
        yield f"{path}: missing"
    elif kind == "extra_forbidden":
        yield f"{path}: unknown key; {_suggestion(loc, model)}"
    elif kind == "conflict":
        # Rules over several fields name their field themselves: `field: what is wrong`.
        yield from (f"{path}.{line}" if path else line for line in details["ctx"]["conflicts"])
    else:
        yield f"{path}: {show_value(details['input'])}: {_message(details)}"


def printable(line: str) -> str:
    """The line with its control characters written out."""
    # A key or a value may hold a line break or a terminal's control characters; a fault stays one plain line.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def _message(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["type"] == "value_error":
        return str(context["error"])
    if details["type"] == "literal_error":
        return f"one of {context['expected'].replace(chr(39), '').replace(' or ', ', ')} is needed"
    return _MESSAGES.get(details["type"], details["msg"].replace("Input should", "should"))


def show_value(value: Any) -> str:
    """A value as the user wrote it, shortened to a line."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggestion(loc: tuple[Any, ...], model: type[BaseModel]) -> str:
    wrong = str(loc[-1])
    siblings = _fields_at(loc[:-1], model)
    close = difflib.get_close_matches(wrong, siblings, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    elsewhere = [path for path in _all_paths(model) if path.rsplit(".", 1)[-1] == wrong]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known here: {', '.join(siblings)}"


def _fields_at(loc: tuple[Any, ...], model: type[BaseModel]) -> list[str]:
    for part in loc:
        inner = _submodel(model.model_fields[str(part)].annotation) if part in model.model_fields else model
        model = inner or model
    return list(model.model_fields)


def _all_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = _submodel(field.annotation)
        if inner is not None:
            yield from _all_paths(inner, f"{prefix}{name}.")


def _submodel(annotation: Any) -> type[BaseModel] | None:
    """The model class inside an annotation: `Tiers` of `dict[str, Tiers]`, None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_submodel(argument) for argument in typing.get_args(annotation))
    return next((found for found in inner if found is not None), None)
