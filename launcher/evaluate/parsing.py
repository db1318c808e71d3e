"""Model text to tool calls: strict, so that what counts as a call is what a tool runner could run without guessing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from launcher.data.examples import ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
EMPTY_THINKING = re.compile(r"\s*<think>\s*</think>")  # Qwen3 models tuned on their own template emit one
BLANK = re.compile(r"\s*")
DEEPEST = 32  # levels of nesting; a runaway "[[[[..." must not exhaust the stack of whoever compares the values


@dataclass(frozen=True)
class ParsedAnswer:
    """The calls of an answer, or why it is not a sequence of calls. Exactly one of the two is None."""

    calls: tuple[ToolCall, ...] | None
    error: str | None


def parse_calls(text: str) -> ParsedAnswer:
    """Read an answer that must be one or several `<tool_call>` blocks and nothing else.

    White space between blocks and one empty `<think></think>` before them are allowed. A block holds a JSON object
    with `name` and `arguments`, the latter an object or a string holding one. Never raises.
    """
    position = _skip_blank(text, _end_of_thinking(text))
    if not text.startswith(OPEN, position):
        return ParsedAnswer(None, _why_no_call(text, position))
    calls: list[ToolCall] = []
    while position < len(text):
        try:
            call, position = _parse_block(text, position)
        except ValueError as fault:
            return ParsedAnswer(None, f"call {len(calls) + 1}: {fault}")
        calls.append(call)
        position = _skip_blank(text, position)
    return ParsedAnswer(tuple(calls), None)


def find_calls(text: str) -> tuple[ToolCall, ...]:
    """Every well-formed `<tool_call>` block in a text, whatever stands around it. Never raises."""
    calls = []
    position = text.find(OPEN)
    while position >= 0:
        try:
            call, position = _parse_block(text, position)
            calls.append(call)
        except ValueError:
            position += len(OPEN)
        position = text.find(OPEN, position)
    return tuple(calls)


def render_calls(calls: Iterable[ToolCall]) -> str:
    """Calls as Qwen's chat templates write them: the inverse of `parse_calls`."""
    bodies = (
        json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False, allow_nan=False)
        for call in calls
    )
    return "\n".join(f"{OPEN}\n{body}\n{CLOSE}" for body in bodies)


def _end_of_thinking(text: str) -> int:
    thinking = EMPTY_THINKING.match(text)
    return thinking.end() if thinking else 0


def _skip_blank(text: str, position: int) -> int:
    blank = BLANK.match(text, position)
    return blank.end() if blank else position


def _why_no_call(text: str, position: int) -> str:
    if position == len(text):
        return "empty answer"
    if text.startswith("<think>", position):
        return "thinking before the call"
    if OPEN in text:
        return "text before the first call"
    return "a call without <tool_call> around it" if text[position] in "{[" else "no tool call, only text"


def _parse_block(text: str, start: int) -> tuple[ToolCall, int]:
    """Read the block that starts at `start`; gives the call and where the block ends. Raises ValueError."""
    if not text.startswith(OPEN, start):
        raise ValueError("text between or after the calls")
    body, end = _read_json(text, _skip_blank(text, start + len(OPEN)))
    end = _skip_blank(text, end)
    if not text.startswith(CLOSE, end):
        raise ValueError("<tool_call> is not closed" if end == len(text) else "text after the JSON object")
    return _to_call(body), end + len(CLOSE)


def _to_call(body: Any) -> ToolCall:
    if not isinstance(body, dict):
        raise ValueError(f"a JSON {_kind(body)} instead of an object")
    for key in ("name", "arguments"):
        if key not in body:
            raise ValueError(f"{key!r} is missing")
    surplus = sorted(body.keys() - {"name", "arguments"})
    if surplus:
        raise ValueError(f"unexpected key {surplus[0]!r}")
    name, arguments = body["name"], body["arguments"]
    if not isinstance(name, str) or not name:
        raise ValueError("'name' is not the name of a tool")
    if isinstance(arguments, str):
        arguments = _read_whole_json(arguments)
    if not isinstance(arguments, dict):
        raise ValueError(f"'arguments' is a JSON {_kind(arguments)} instead of an object")
    return ToolCall(name, arguments)


def _read_whole_json(text: str) -> Any:
    value, end = _read_json(text, _skip_blank(text, 0))
    if _skip_blank(text, end) != len(text):
        raise ValueError("text after the JSON object in 'arguments'")
    return value


def _read_json(text: str, start: int) -> tuple[Any, int]:
    """Read one JSON value of RFC 8259, with neither duplicate keys nor numbers that are not finite."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as fault:
        reason = fault.msg.removesuffix(" at").removesuffix(" starting")  # where it is says nothing here
        raise ValueError(f"not JSON ({reason.lower()})") from None
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels deep") from None
    if _is_deeper_than(value, DEEPEST):
        raise ValueError(f"more than {DEEPEST} levels deep")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is no character") from None
    return value, end


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is beyond what a number can hold")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)


def _is_deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [inner for outer in level if isinstance(outer, (dict, list)) for inner in _children(outer)]
        if not level:
            return False
    return True


def _children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")
