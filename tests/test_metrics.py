"""The metrics on answers whose scores can be worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.data.examples import ToolCall
from launcher.evaluate.metrics import canonical_json, mean_scores, per_tool_table, score_answer
from launcher.evaluate.parsing import render_calls

LOAD = ToolCall("mesen2.load_rom", {"path": "zelda3.sfc"})
RUN = ToolCall("mesen2.run", {"frames": 60})
READ = ToolCall("mesen2.read_memory", {"address": "0x7E00", "length": 16})
KEYS = {"mesen2.load_rom": {"path"}, "mesen2.run": {"frames"}, "mesen2.read_memory": {"address", "length"}}


def validate(call):
    if call.name not in KEYS:
        return [f"unknown tool {call.name}"]
    return [f"argument {key} is missing" for key in KEYS[call.name] - call.arguments.keys()]


def score(answer, *expected):
    return score_answer(answer if isinstance(answer, str) else render_calls(answer), expected, validate)


def test_the_right_answer_is_right_in_every_respect():
    got = score([LOAD, RUN], LOAD, RUN)
    assert (got.exact_match, got.tool_accuracy, got.validity, got.executed) == (True, True, True, True)
    assert got.parameters.f1 == 1.0


def test_a_wrong_value_keeps_the_tool():
    got = score([ToolCall("mesen2.read_memory", {"address": "0x7E00", "length": 32})], READ)
    assert (got.exact_match, got.tool_accuracy, got.validity) == (False, True, True)
    assert (got.parameters.true_positives, got.parameters.false_positives, got.parameters.false_negatives) == (1, 1, 1)
    assert got.parameters.f1 == 0.5


def test_order_counts_and_a_parameter_belongs_to_its_place():
    got = score([RUN, LOAD], LOAD, RUN)
    assert (got.exact_match, got.tool_accuracy) == (False, False)
    assert got.parameters.true_positives == 0


def test_a_missing_or_surplus_call_is_no_match():
    assert not score([LOAD], LOAD, RUN).tool_accuracy
    assert not score([LOAD, RUN, RUN], LOAD, RUN).exact_match
    assert score([LOAD], LOAD, RUN).parameters.false_negatives == 1


def test_prose_about_a_call_is_neither_valid_nor_executed():
    got = score("I would call mesen2.run with frames = 60", RUN)
    assert (got.exact_match, got.validity, got.executed, got.actual) == (False, False, False, None)
    assert got.parse_error is not None
    assert got.parameters.false_negatives == 1


def test_a_call_with_prose_around_it_would_run_but_is_not_a_valid_answer():
    got = score("Sure!\n" + render_calls([RUN]), RUN)
    assert (got.exact_match, got.validity, got.executed) == (False, False, True)


def test_calls_the_schema_refuses_are_not_executed():
    assert not score([ToolCall("mesen2.step", {})], RUN).executed
    assert not score([ToolCall("mesen2.run", {})], RUN).validity
    half = score([RUN, ToolCall("mesen2.step", {})], RUN)
    assert (half.validity, half.executed) == (False, True)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, True),
        (0, -0.0, True),
        (True, 1, False),
        (False, 0, False),
        ("16", 16, False),
        (None, "null", False),
        (2**53 + 1, float(2**53), False),
        ({"a": 1, "b": [1.0]}, {"b": [1], "a": 1}, True),
        ([1, 2], [2, 1], False),
        ("A", "a", False),
        ("é", "e\u0301", False),
    ],
)
def test_json_values_are_equal_as_json(one, other, equal):
    assert (canonical_json(one) == canonical_json(other)) is equal
    assert (
        score([ToolCall("mesen2.run", {"frames": one})], ToolCall("mesen2.run", {"frames": other})).exact_match is equal
    )


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.integers() | st.floats(-10, 10))
def test_numbers_compare_as_python_compares_them(one, other):
    assert (canonical_json(one) == canonical_json(other)) is (one == other)


def test_means_pool_the_parameters():
    scores = [
        score([READ], READ),  # 2 right
        score([ToolCall("mesen2.run", {"frames": 61})], RUN),  # 1 surplus, 1 missing
        score("no", LOAD),  # 1 missing
    ]
    means = mean_scores(scores)
    assert means["exact_match"] == pytest.approx(1 / 3)
    assert means["tool_accuracy"] == pytest.approx(2 / 3)
    assert means["parameter_f1"] == pytest.approx(4 / (4 + 1 + 2))
    assert means["validity"] == means["execution_rate"] == pytest.approx(2 / 3)


def test_no_examples_give_no_score():
    with pytest.raises(ValueError, match="no examples"):
        mean_scores([])


def test_per_tool_an_example_counts_for_each_of_its_tools():
    expected = [(LOAD, RUN), (RUN,), (READ,)]
    answers = [[LOAD, ToolCall("mesen2.run", {"frames": 1})], [RUN], [ToolCall("mesen2.run", {"frames": 5})]]
    scores = [score(answer, *gold) for answer, gold in zip(answers, expected, strict=True)]
    table = per_tool_table(expected, scores)
    assert list(table) == ["mesen2.run", "mesen2.load_rom", "mesen2.read_memory"]
    assert table["mesen2.load_rom"] == {"examples": 1, "exact_match": 1.0, "tool_accuracy": 1.0, "parameter_f1": 1.0}
    assert (table["mesen2.run"]["examples"], table["mesen2.run"]["exact_match"]) == (2, 0.5)
    assert table["mesen2.run"]["tool_accuracy"] == 1.0
    # right: 60; surplus: 1 and 5 (the latter where read_memory was expected); missing: 60 of the first example
    assert table["mesen2.run"]["parameter_f1"] == pytest.approx(2 / (2 + 2 + 1))
    assert table["mesen2.read_memory"]["parameter_f1"] == 0.0


def test_a_tool_without_parameters_is_not_failed_for_having_none():
    expected = [(ToolCall("emulator.pause", {}),)]
    got = score([ToolCall("emulator.pause", {})], *expected[0])
    assert got.exact_match
    assert mean_scores([got])["parameter_f1"] == 1.0
    assert per_tool_table(expected, [got])["emulator.pause"]["parameter_f1"] == 1.0
