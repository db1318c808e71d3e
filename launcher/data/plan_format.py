"""The input format of the specialists plan: read it with every fault at once, and write it.

`{"id", "instruction", "tool_calls": [{"tool", "parameters", "rationale", "expected_output"}], "success_criteria"}`,
as one object, an array, one object a line, or a folder of such files. Only `id`, `instruction`, `tool` and `parameters`
mean something to training; the rest is kept as metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.data.examples import ToolCall, ToolExample
from launcher.data.json_stream import LINE_SUFFIXES, iter_values
from launcher.data.skeleton import skeleton
from launcher.data.tools import ToolSet, load_tools
from launcher.errors import BadInput
from launcher.rundir import write_atomically

SOURCES = ("synthetic", "extracted")
# A file of another kind would bring one fault an example; nobody reads more than these.
MOST_FAULTS_COLLECTED = 1000


def read_plan_examples(path: str | Path, tool_set: ToolSet | None = None) -> Iterator[ToolExample]:
    """Read examples one by one from a file or a folder of files (`.json`, `.jsonl`, `.ndjson`), checking each call.

    Args:
        path: A file or a folder.
        tool_set: The tools that may be called; the eleven shipped ones unless given.

    Raises:
        BadInput: after the last example, with every fault found: no file, no examples, not JSON, wrong shape, unknown
            tools, arguments that break the tool's schema, an id that stands there twice.
    """
    path = Path(path)
    tools = tool_set or load_tools()
    faults: list[str] = []
    first_place: dict[str, str] = {}
    for file in _files(path):
        for item in iter_values(file):
            if len(faults) >= MOST_FAULTS_COLLECTED:
                raise BadInput(*faults)
            if item.fault:
                faults.append(f"{item.where}: {item.fault}")
                continue
            try:
                example = example_from_record(item.value, item.where, tools)
            except BadInput as bad:
                faults += bad.faults
                continue
            if example.id in first_place:
                faults.append(f"{item.where}: id {example.id!r} stands already at {first_place[example.id]}")
                continue
            first_place[example.id] = item.where
            yield example
    if not faults and not first_place:
        raise BadInput(f"{path}: no examples in it")
    if faults:
        raise BadInput(*faults)


def example_from_record(record: Any, where: str, tools: ToolSet | None) -> ToolExample:
    """One record of the plan's format as an example; with `tools` None the calls are not checked.

    Raises:
        BadInput: every fault of the record, each beginning with `where`.
    """
    faults = list(_shape_faults(record))
    if faults:
        raise BadInput(*(f"{where}: {fault}" for fault in faults))
    calls: list[ToolCall] = []
    for i, entry in enumerate(record["tool_calls"]):
        found, arguments = _arguments(entry)
        call = ToolCall(entry["tool"], arguments)
        if tools and not found:
            found = tools.validate_call(call)
        faults += [f"{where} ({record['id']}): tool_calls[{i}]: {fault}" for fault in found]
        calls.append(call)
    if faults:
        raise BadInput(*faults)
    metadata = {k: v for k, v in record.items() if k not in ("id", "instruction", "tool_calls", "template")}
    kept = [{k: v for k, v in entry.items() if k not in ("tool", "parameters")} for entry in record["tool_calls"]]
    return ToolExample(
        id=record["id"],
        instruction=record["instruction"],
        calls=tuple(calls),
        template=record.get("template") or skeleton(record["instruction"]),
        source=next((source for source in SOURCES if record["id"].startswith(f"{source}_")), "unknown"),
        metadata=metadata | ({"tool_calls": kept} if any(kept) else {}),
    )


def record_from_example(example: ToolExample) -> dict[str, Any]:
    """The example as a record of the plan's format, with its template; `example_from_record` gives it back."""
    kept = example.metadata.get("tool_calls") or [{}] * len(example.calls)
    calls = [
        {"tool": call.name, "parameters": dict(call.arguments), **more}
        for call, more in zip(example.calls, kept, strict=True)
    ]
    more = {k: v for k, v in example.metadata.items() if k != "tool_calls"}
    return {
        "id": example.id,
        "instruction": example.instruction,
        "tool_calls": calls,
        **more,
        "template": example.template,
    }


def to_json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as JSON in plain ASCII, one a line: the form in which they are written and hashed."""
    return "".join(json.dumps(record) + "\n" for record in records)


def write_plan_examples(path: str | Path, examples: Iterable[ToolExample]) -> None:
    """Write examples in the plan's format, one a line.

    Raises:
        OSError: the folder is missing or the disk is full; an old file is untouched.
    """
    write_atomically(Path(path), to_json_lines(record_from_example(example) for example in examples))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise BadInput(f"{path}: not found; give a JSON file, a JSON Lines file, or a folder of them")
    kinds = (".json", *LINE_SUFFIXES)
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in kinds and file.is_file())
    if not found:
        raise BadInput(f"{path}: no examples in it: a folder needs files that end in {', '.join(kinds)}")
    return found


def _shape_faults(record: Any) -> Iterator[str]:
    if not isinstance(record, dict):
        yield f"an example is a JSON object, not {_kind(record)}"
        return
    for key in ("id", "instruction"):
        if key not in record:
            yield f"`{key}` is missing; keys there: {', '.join(record) or 'none'}"
        elif not isinstance(record[key], str) or not record[key].strip():
            yield f"`{key}` must be a text that is not empty, not {_kind(record[key])}"
    if not isinstance(record.get("template", ""), str):
        yield f"`template` must be a text, not {_kind(record['template'])}"
    calls = record.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        yield f"`tool_calls` must be a list of at least one call, not {_kind(calls)}"
        return
    for i, call in enumerate(calls):
        if not isinstance(call, dict) or not isinstance(call.get("tool"), str):
            keys = f"; keys there: {', '.join(call)}" if isinstance(call, dict) else ""
            yield f"tool_calls[{i}]: expected an object with `tool` and `parameters`{keys}"


def _arguments(entry: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The faults of a call's `parameters`, and the arguments: an object, or a string that holds one as JSON."""
    value = entry.get("parameters")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as fault:
            return [f"`parameters` is a text that is not JSON ({fault}): {_short(entry['parameters'])}"], {}
    if not isinstance(value, dict):
        return [f"`parameters` must be an object, not {_kind(value)}"], {}
    return [], value


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    if value in ("", [], {}):
        return f"an empty {names[type(value)].split()[-1]}"
    return names.get(type(value), "nothing")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
