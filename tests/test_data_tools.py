"""The tools' schemas, and what is said about a call that breaks one."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from launcher.data.examples import ToolCall
from launcher.data.generator import CALLS_PER_TOOL
from launcher.data.tools import ToolSet, load_tools, tool_set_from
from launcher.errors import BadInput

TOOLS = load_tools()
READ = {"address": "0x0300", "length": 64, "format": "hex"}


def test_the_shipped_tools_are_the_plans_eleven_with_closed_schemas():
    assert set(TOOLS.names) == set(CALLS_PER_TOOL)
    for schema in TOOLS.functions():
        assert schema["type"] == "function" and schema["function"]["description"]
        parameters = schema["function"]["parameters"]
        Draft202012Validator.check_schema(parameters)
        assert parameters["additionalProperties"] is False
        assert all(entry["description"] for entry in parameters["properties"].values())


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("yaze_debugger.read_memory", READ),
        ToolCall("yaze_debugger.read_memory", {"address": "0x7EF360"}),
        ToolCall("mesen2.run", {"frames": 60}),
        ToolCall("mesen2.run", {"until": "0x00A0"}),
    ],
)
def test_good_calls_have_no_faults(call):
    assert TOOLS.validate_call(call) == []


@pytest.mark.parametrize(
    ("name", "arguments", "faults"),
    [
        ("mesen2.rum", {}, ["unknown tool 'mesen2.rum'; did you mean 'mesen2.run'?"]),
        ("screenshot", {}, ["unknown tool 'screenshot'; did you mean 'mesen2.screenshot'?"]),
        ("mesen2.run", {}, ["mesen2.run: exactly one of frames and until must be given, got none"]),
        (
            "mesen2.run",
            {"frames": 1, "until": "0x00A0"},
            ["mesen2.run: exactly one of frames and until must be given, got frames, until"],
        ),
        ("mesen2.run", {"frames": 0}, ["mesen2.run: argument 'frames': 0 is less than the minimum of 1"]),
        ("mesen2.run", {"frames": "60"}, ["mesen2.run: argument 'frames': '60' is not of type integer"]),
        (
            "yaze_debugger.read_memory",
            {**READ, "address": "$7E00"},
            ["yaze_debugger.read_memory: argument 'address': '$7E00' does not have the form ^0x[0-9A-Fa-f]{1,6}$"],
        ),
        (
            "z3ed_cli.inspect",
            {"rom": "a.sfc", "typ": "room", "id": -1},
            [
                "z3ed_cli.inspect: argument 'type' is missing",
                "z3ed_cli.inspect: unknown argument 'typ'; did you mean 'type'?",
                "z3ed_cli.inspect: argument 'id': -1 is less than the minimum of 0",
            ],
        ),
    ],
)
def test_every_fault_of_a_call_is_named(name, arguments, faults):
    assert TOOLS.validate_call(ToolCall(name, arguments)) == faults


def test_a_wrong_choice_lists_the_right_ones():
    (fault,) = TOOLS.validate_call(ToolCall("yaze_debugger.read_memory", {**READ, "format": "octal"}))
    assert fault.endswith("'octal' is not one of hex, decimal, binary, ascii")


def test_a_subset_knows_only_its_tools():
    subset = TOOLS.subset(["mesen2.run", "mesen2.load_rom"])
    assert subset.names == ("mesen2.load_rom", "mesen2.run")
    assert subset.validate_call(ToolCall("mesen2.screenshot", {"path": "a.png"}))
    with pytest.raises(BadInput, match=r"data\.tools: unknown tool 'mesen2\.save'"):
        TOOLS.subset(["mesen2.run", "mesen2.save"])


def test_tools_of_a_users_own_are_read_in_both_forms(tmp_path):
    bare = {"name": "lamp.on", "parameters": {"type": "object", "properties": {}}}
    file = tmp_path / "tools.json"
    for content in ([bare], [{"type": "function", "function": bare}]):
        file.write_text(json.dumps(content))
        assert load_tools(file).names == ("lamp.on",)
    assert tool_set_from(TOOLS.functions(), "again") == TOOLS == ToolSet(TOOLS.schemas)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not found"),
        ("[{", "not JSON"),
        ("{}", "expected a list of tools"),
        ('[{"name": "a"}]', "a: `parameters` must be a JSON schema"),
        ('[{"name": "a", "parameters": {"type": "objekt"}}]', "a: `parameters` is no JSON schema"),
        ('[{"name": "a", "parameters": {}}, {"name": "a", "parameters": {}}]', "'a' is there twice"),
        ("[3]", "tool 1: expected an object"),
    ],
)
def test_a_bad_file_of_tools_is_named_with_its_fault(tmp_path, content, said):
    file = tmp_path / "tools.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadInput) as caught:
        load_tools(file)
    assert said in str(caught.value) and str(file) in str(caught.value)
