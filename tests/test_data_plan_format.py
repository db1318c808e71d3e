"""The reader of the plan's input format: every shape of file, every fault at once, nothing lost on the way back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.data import json_stream, plan_format
from launcher.data.chat import prompt_messages, to_messages
from launcher.data.examples import ToolCall, ToolExample
from launcher.data.json_stream import iter_values
from launcher.data.plan_format import (
    example_from_record,
    read_plan_examples,
    record_from_example,
    to_json_lines,
    write_plan_examples,
)
from launcher.errors import BadInput

# The example of the specialists plan, word for word.
PLAN = {
    "id": "synthetic_yaze_read_001",
    "instruction": "Read OAM table to inspect sprite properties",
    "tool_calls": [
        {
            "tool": "yaze_debugger.read_memory",
            "parameters": {"address": "0x0300", "length": 64, "format": "hex"},
            "rationale": "Read ROM data to inspect sprite properties",
            "expected_output": "Hex bytes showing ROM content",
        }
    ],
    "success_criteria": "Successfully read OAM property bytes",
}


def record(number: int, **changes):
    return PLAN | {"id": f"extracted_{number:03d}"} | changes


def call(tool="mesen2.run", parameters=None, **more):
    return {"tool_calls": [{"tool": tool, "parameters": {"frames": 60} if parameters is None else parameters, **more}]}


def faults_of(path) -> list[str]:
    with pytest.raises(BadInput) as caught:
        list(read_plan_examples(path))
    return caught.value.faults


def test_the_plans_own_example(tmp_path):
    file = tmp_path / "one.json"
    file.write_text(json.dumps(PLAN, indent=2))
    (example,) = read_plan_examples(file)
    assert example.calls == (ToolCall("yaze_debugger.read_memory", PLAN["tool_calls"][0]["parameters"]),)
    assert (example.source, example.difficulty) == ("synthetic", "simple")
    assert example.template == "read oam table to inspect sprite properties"
    assert example.metadata["success_criteria"] == PLAN["success_criteria"]
    assert example.metadata["tool_calls"][0]["rationale"] == "Read ROM data to inspect sprite properties"


def test_messages_are_the_plans_training_format_and_nothing_more(tmp_path):
    example = example_from_record(PLAN, "here", None)
    prompt = "You are an expert ROM development assistant with access to MCP tools."
    arguments = '{"address": "0x0300", "length": 64, "format": "hex"}'
    function = {"name": "yaze_debugger.read_memory", "arguments": arguments}
    assert to_messages(example, prompt) == [
        {"role": "system", "content": prompt},
        {"role": "user", "content": "Read OAM table to inspect sprite properties"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
    ]
    shown = json.dumps(to_messages(example, prompt))
    for never in ("rationale", "Read ROM data", "Hex bytes", "Successfully"):
        assert never not in shown
    as_dict = to_messages(example, "", arguments_as="dict")
    assert as_dict[-1]["tool_calls"][0]["function"]["arguments"] == json.loads(arguments)
    assert as_dict[:-1] == prompt_messages(example, "") == [{"role": "user", "content": PLAN["instruction"]}]


def test_several_calls_keep_their_order_and_are_numbered():
    calls = (ToolCall("mesen2.load_rom", {"path": "a.sfc"}), ToolCall("mesen2.screenshot", {"path": "ä.png"}))
    made = to_messages(ToolExample("x", "Go", calls, "go", "unknown"), "S")[-1]["tool_calls"]
    assert [(c["id"], c["function"]["name"]) for c in made] == [
        ("call_1", "mesen2.load_rom"), ("call_2", "mesen2.screenshot"),
    ]  # fmt: skip
    assert made[1]["function"]["arguments"] == '{"path": "ä.png"}'


@pytest.mark.parametrize("form", ["array", "indented array", "lines", "lines with gaps", "lines named json"])
def test_every_form_gives_the_same_examples(tmp_path, form):
    records = [record(i, instruction=f"Read ä {i}") for i in range(5)]
    lines = "\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    file = tmp_path / ("data.jsonl" if form.startswith("lines") and "json" not in form else "data.json")
    texts = {
        "array": json.dumps(records),
        "indented array": "\ufeff\n " + json.dumps(records, indent=3) + "\n\n",
        "lines": lines,
        "lines with gaps": "\n\n" + lines.replace("\n", "\n\n") + "\n",
        "lines named json": lines,
    }
    file.write_text(texts[form], encoding="utf-8")
    assert [record_from_example(e) for e in read_plan_examples(file)] == [r | {"template": "read ä #"} for r in records]


def test_a_folder_is_read_in_order_of_names(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.json").write_text(json.dumps([record(2), record(3)]))
    (tmp_path / "a.jsonl").write_text(json.dumps(record(1)) + "\n")
    (tmp_path / "deep" / "c.json").write_text(json.dumps(record(4)))
    (tmp_path / "notes.txt").write_text("not data")
    assert [e.id[-1] for e in read_plan_examples(tmp_path)] == ["1", "2", "3", "4"]


def test_an_array_longer_than_a_block_is_read_without_holding_it(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "BLOCK_CHARACTERS", 64)
    values = [{"n": i, "text": "x" * (i % 150), "list": [i, [i]]} for i in range(60)]
    file = tmp_path / "data.json"
    file.write_text(json.dumps(values, indent=1))
    assert [item.value for item in iter_values(file)] == values
    assert [item.fault for item in iter_values(file)] == [None] * 60


@settings(max_examples=50)
@given(
    st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), max_size=6),
    st.integers(1, 9),
)
def test_any_array_in_blocks_of_any_size_is_what_json_reads(tmp_path_factory, values, block):
    file = tmp_path_factory.mktemp("array") / "data.json"
    file.write_text(json.dumps(values, indent=block % 3), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "BLOCK_CHARACTERS", block)
        items = list(iter_values(file))
    assert [(item.value, item.fault) for item in items] == [(value, None) for value in values]


def test_missing_and_empty_sources(tmp_path):
    assert "not found" in faults_of(tmp_path / "nowhere.json")[0]
    for name, text in (("empty.json", ""), ("blank.jsonl", "\n \n"), ("none.json", "[]")):
        (tmp_path / name).write_text(text)
        assert faults_of(tmp_path / name) == [f"{tmp_path / name}: no examples in it"]
    (tmp_path / "folder").mkdir()
    assert "files that end in .json" in faults_of(tmp_path / "folder")[0]


def test_all_faults_come_at_once_each_with_its_place(tmp_path):
    bad = [
        record(1),
        record(2, **call("mesen2.rum")),
        record(3, **call(parameters='{"frames": 60')),
        record(4, **call(parameters=[60])),
        record(5, **call(parameters={"frames": "sixty"})),
        record(6, tool_calls=[]),
        {"prompt": "Read", "tool_calls": PLAN["tool_calls"]},
        record(1),
        "text",
        record(8, tool_calls=[{"name": "mesen2.run", "arguments": {}}]),
        record(9, instruction=" "),
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, bad)))
    found = faults_of(file)
    expected = [
        (2, "tool_calls[0]: unknown tool 'mesen2.rum'; did you mean 'mesen2.run'?"),
        (3, "`parameters` is a text that is not JSON"),
        (4, "`parameters` must be an object, not a list"),
        (5, "argument 'frames': 'sixty' is not of type integer"),
        (6, "`tool_calls` must be a list of at least one call, not an empty list"),
        (7, "`id` is missing; keys there: prompt, tool_calls"),
        (7, "`instruction` is missing"),
        (8, f"id 'extracted_001' stands already at {file}: line 1"),
        (9, "an example is a JSON object, not a text"),
        (10, "expected an object with `tool` and `parameters`; keys there: name, arguments"),
        (11, "`instruction` must be a text that is not empty"),
    ]
    assert len(found) == len(expected)
    for fault, (line, words) in zip(found, expected, strict=True):
        assert fault.startswith(f"{file}: line {line}") and words in fault


def test_parameters_as_a_json_text_are_understood(tmp_path):
    example = example_from_record(record(1, **call(parameters='{"frames": 60}')), "here", None)
    assert example.calls == (ToolCall("mesen2.run", {"frames": 60}),)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"id": "x",\n "instruction" "y"}', ": not JSON (Expecting ':' delimiter at line 2, column 16)"),
        ("a.jsonl", '{"id": \n', ": line 1: not JSON"),
        ("a.json", '[{"id": 1},\n {"id": }, 3]', ": example 2 (line 2): not JSON"),
        ("a.json", '[{"id": 1} {"id": 2}]', "not JSON (expected `,` or `]` after an element)"),
        ("a.json", "[1, 2", "expected `,` or `]`"),
        ("a.json", "[1] 2", "not JSON (text after the end of the array)"),
        ("a.jsonl", '{"id": NaN}', "NaN is no JSON number"),
        ("a.jsonl", "[" * 100_000, "not JSON"),
    ],
)
def test_broken_json_is_named_with_its_line(tmp_path, name, text, said):
    file = tmp_path / name
    file.write_text(text)
    found = faults_of(file)
    assert any(said in fault for fault in found), found
    assert all(fault.startswith(str(file)) for fault in found)


def test_text_in_another_encoding_is_a_fault(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'{"id": "\xff"}')
    assert "not UTF-8 text" in faults_of(file)[0]


def test_reading_ends_when_everything_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_format, "MOST_FAULTS_COLLECTED", 20)
    file = tmp_path / "data.jsonl"
    file.write_text("oops\n" * 100)
    assert len(faults_of(file)) == 20


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
EXAMPLES = st.builds(
    ToolExample,
    id=st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip).map(lambda name: f"synthetic_{name}"),
    instruction=st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip),
    calls=st.lists(
        st.builds(ToolCall, st.text(), st.dictionaries(st.text(), VALUES, max_size=3)), min_size=1, max_size=3
    ).map(tuple),
    template=st.text(min_size=1),
    source=st.just("synthetic"),
    metadata=st.fixed_dictionaries({}, optional={"success_criteria": VALUES, "notes": VALUES}),
)


@given(EXAMPLES)
def test_a_record_in_json_gives_the_example_back(example):
    assert example_from_record(json.loads(to_json_lines([record_from_example(example)])), "here", None) == example


def test_a_written_file_reads_back(tmp_path):
    odd = "two\nlines, a \u2028 separator, half a pair \ud800"
    examples = [example_from_record(record(i, instruction=f"{i} {odd}"), "here", None) for i in range(3)]
    write_plan_examples(tmp_path / "out.jsonl", examples)
    assert list(read_plan_examples(tmp_path / "out.jsonl")) == examples
