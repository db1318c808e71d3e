"""What counts as a call: the forms models write, and everything near them that a tool runner could not run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.data.examples import ToolCall
from launcher.evaluate.parsing import DEEPEST, find_calls, parse_calls, render_calls

ONE = '<tool_call>\n{"name": "mesen2.run", "arguments": {"frames": 60}}\n</tool_call>'
RUN = ToolCall("mesen2.run", {"frames": 60})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
tool_calls = st.builds(ToolCall, st.text(min_size=1), st.dictionaries(st.text(), json_values, max_size=4))


@pytest.mark.parametrize(
    "text",
    [
        ONE,
        f"  \n{ONE}\n\n",
        f"<think>\n\n</think>\n\n{ONE}",
        ONE.replace("\n", ""),
        '<tool_call>{"arguments": "{\\"frames\\": 60}", "name": "mesen2.run"}</tool_call>',
    ],
)
def test_one_call_in_every_form_models_write(text):
    assert parse_calls(text).calls == (RUN,)
    assert parse_calls(text).error is None


def test_several_calls_keep_their_order():
    text = ONE + "\n" + ONE.replace("60", "90")
    assert parse_calls(text).calls == (RUN, ToolCall("mesen2.run", {"frames": 90}))


def test_a_closing_tag_inside_a_string_does_not_close_the_call():
    call = ToolCall("yaze_debugger.assemble", {"code": "; </tool_call> <tool_call>"})
    assert parse_calls(render_calls([call])).calls == (call,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty answer"),
        ("I would call mesen2.run with 60 frames.", "no tool call, only text"),
        ('{"name": "mesen2.run", "arguments": {}}', "a call without <tool_call> around it"),
        (f"Sure: {ONE}", "text before the first call"),
        (f"<think>hm</think>{ONE}", "thinking before the call"),
        (f"{ONE} done", "call 2: text between or after the calls"),
        (ONE.removesuffix("</tool_call>"), "call 1: <tool_call> is not closed"),
        (ONE.replace("}}", "}"), "call 1: not JSON"),
        (ONE.replace("}}", "}} x"), "call 1: text after the JSON object"),
        (ONE.replace("60", "NaN"), "call 1: NaN is not JSON"),
        (ONE.replace("60", "1e999"), "call 1: 1e999 is beyond"),
        (ONE.replace("60", "9" * 5000), "call 1:"),
        (ONE.replace("60", '"\\ud800"'), "call 1: half of a surrogate pair"),
        (ONE.replace('"frames": 60', '"frames": 60, "frames": 60'), "call 1: a key stands twice"),
        (ONE.replace("60", "[" * 5000), "call 1: more than"),
        (ONE.replace("60", "[" * 50 + "]" * 50), "call 1: more than"),
        ("<tool_call>[]</tool_call>", "call 1: a JSON list instead of an object"),
        ('<tool_call>{"name": "a"}</tool_call>', "call 1: 'arguments' is missing"),
        ('<tool_call>{"name": "", "arguments": {}}</tool_call>', "call 1: 'name' is not the name"),
        ('<tool_call>{"name": "a", "arguments": "[1]"}</tool_call>', "call 1: 'arguments' is a JSON list"),
        ('<tool_call>{"name": "a", "arguments": "{} x"}</tool_call>', "call 1: text after the JSON object in"),
        ('<tool_call>{"name": "a", "arguments": null}</tool_call>', "call 1: 'arguments' is a JSON null"),
        ('<tool_call>{"name": "a", "arguments": {}, "id": 1}</tool_call>', "call 1: unexpected key 'id'"),
        (f"{ONE}\n<tool_call>\n{{", "call 2: not JSON"),
    ],
)
def test_what_is_no_call_says_why(text, reason):
    answer = parse_calls(text)
    assert answer.calls is None
    assert answer.error is not None
    assert answer.error.startswith(reason)


def test_nesting_up_to_the_limit_is_read():
    arguments = json.loads('{"a":' * (DEEPEST - 2) + "1" + "}" * (DEEPEST - 2))
    assert parse_calls(render_calls([ToolCall("t", arguments)])).calls is not None


PIECES = [
    "<tool_call>",
    "</tool_call>",
    '{"name":"a","arguments":{',
    "}}",
    '{"name":',
    '"k":1',
    "<think></think>",
    " ",
    "{",
]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_makes_it_raise(text):
    answer = parse_calls(text)
    assert (answer.calls is None) == (answer.error is not None)
    assert answer.calls is None or answer.calls == find_calls(text)


@given(st.lists(tool_calls, min_size=1, max_size=3))
def test_what_is_rendered_is_read_back(calls):
    assert parse_calls(render_calls(calls)).calls == tuple(calls)


def test_find_calls_sees_good_calls_among_bad_ones():
    text = f"Well: {ONE} then <tool_call>{{oops</tool_call> and {ONE}\n<tool_call>\n" + '{"name": "mesen2'
    assert find_calls(text) == (RUN, RUN)
    assert find_calls("mesen2.run, 60 frames") == ()
