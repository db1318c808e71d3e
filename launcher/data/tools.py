"""The tools a model may call: their JSON schemas (OpenAI function format), and what is wrong with a call."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.data.examples import ToolCall
from launcher.errors import BadInput

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

BUILTIN = "builtin:specialists"


@dataclass(frozen=True)
class ToolSet:
    """The tools of one job. `schemas` are whole function entries: `{"type": "function", "function": {...}}`."""

    schemas: tuple[dict[str, Any], ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(schema["function"]["name"] for schema in self.schemas)

    def functions(self) -> list[dict[str, Any]]:
        """The schemas as a chat template's `tools` wants them."""
        return list(self.schemas)

    def subset(self, names: Sequence[str]) -> ToolSet:
        """Only the named tools, in the order of this set.

        Raises:
            BadInput: one of the names is not a tool of this set.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise BadInput(*(f"data.tools: {self.unknown_tool(name)}" for name in unknown))
        return ToolSet(tuple(schema for schema in self.schemas if schema["function"]["name"] in names))

    def unknown_tool(self, name: str) -> str:
        """The sentence that tells a user that there is no such tool, and which was probably meant."""
        return f"unknown tool {name!r}{_suggest(name, self.names)}"

    def validate_call(self, call: ToolCall) -> list[str]:
        """Every fault of a call against its tool's schema; an empty list means that the tool would accept it."""
        validator = self._validators.get(call.name)
        if validator is None:
            return [self.unknown_tool(call.name)]
        errors = sorted(
            validator.iter_errors(dict(call.arguments)), key=lambda error: [str(part) for part in error.path]
        )
        return [f"{call.name}: {text}" for error in errors for text in _describe(error)]

    @cached_property
    def _validators(self) -> dict[str, Validator]:
        from jsonschema import Draft202012Validator  # a sixth of a second, and most commands check no call

        return {s["function"]["name"]: Draft202012Validator(s["function"]["parameters"]) for s in self.schemas}


def load_tools(source: str | Path = BUILTIN) -> ToolSet:
    """Read a tool set: the eleven tools shipped (`builtin:specialists`), or a JSON file of function entries.

    Raises:
        BadInput: the file is missing, is not JSON, or does not hold tools with valid schemas.
    """
    if source == BUILTIN:
        return ToolSet(tuple(json.loads((files("launcher.data") / "tools" / "specialists.json").read_bytes())))
    path = Path(source)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: not found; give a JSON file of tools, or {BUILTIN}") from None
    except (ValueError, RecursionError) as fault:
        raise BadInput(f"{path}: not JSON ({fault})") from None
    return tool_set_from(raw, str(path))


def tool_set_from(raw: Any, where: str) -> ToolSet:
    """A tool set from parsed JSON; bare `{"name", "parameters"}` entries are accepted as well as whole ones.

    Raises:
        BadInput: not a list of tools, or a schema that is no JSON schema; all faults at once.
    """
    if not isinstance(raw, list) or not raw:
        raise BadInput(f"{where}: expected a list of tools, at least one")
    entries = [entry.get("function", entry) if isinstance(entry, dict) else entry for entry in raw]
    faults = [f"{where}: tool {i + 1}: {text}" for i, entry in enumerate(entries) for text in _schema_faults(entry)]
    names = [entry["name"] for entry in entries if isinstance(entry, dict) and "name" in entry]
    faults += [f"{where}: tool {name!r} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    if faults:
        raise BadInput(*faults)
    return ToolSet(tuple({"type": "function", "function": entry} for entry in entries))


def _schema_faults(entry: Any) -> Iterator[str]:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        yield "expected an object with `name` and `parameters`"
        return
    if not isinstance(entry.get("parameters"), dict):
        yield f"{entry['name']}: `parameters` must be a JSON schema"
        return
    try:
        Draft202012Validator.check_schema(entry["parameters"])
    except SchemaError as fault:
        yield f"{entry['name']}: `parameters` is no JSON schema ({fault.message})"


def _describe(error: Any) -> Iterator[str]:
    """One JSON schema error in words that name the argument, its value and what would be right."""
    key = ".".join(str(part) for part in error.absolute_path)
    match error.validator:
        case "additionalProperties":
            known = error.schema.get("properties", {})
            for name in sorted(set(error.instance) - set(known)):
                yield f"unknown argument {name!r}{_suggest(name, known)}"
        case "required":
            missing = sorted(set(error.validator_value) - set(error.instance))
            # jsonschema reports each missing key on its own; the message names it.
            yield next(
                (f"argument {name!r} is missing" for name in missing if repr(name) in error.message), error.message
            )
        case "oneOf" if all(set(option) == {"required"} for option in error.validator_value):
            choices = " and ".join(name for option in error.validator_value for name in option["required"])
            yield f"exactly one of {choices} must be given, got {_listed(error.instance)}"
        case "enum":
            yield f"argument {key!r}: {error.instance!r} is not one of {_listed(error.validator_value)}"
        case "type":
            yield f"argument {key!r}: {error.instance!r} is not of type {error.validator_value}"
        case "pattern":
            yield f"argument {key!r}: {error.instance!r} does not have the form {error.validator_value}"
        case _:
            yield f"argument {key!r}: {error.message}"


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(str(name) for name in names) or "none"


def _suggest(name: str, known: Collection[str]) -> str:
    # A forgotten server name ("run" for "mesen2.run") first, then a slip of the pen.
    close = [full for full in known if full.endswith(f".{name}")] or difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {_listed(sorted(known))}"
