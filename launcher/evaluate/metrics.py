"""Scores of answers against expected calls: per example, over all, and per tool."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.data.examples import ToolCall
from launcher.evaluate.parsing import find_calls, parse_calls

# The faults of a call against its tool's schema; an empty list means that the tool would accept it.
ValidateCall = Callable[[ToolCall], Sequence[str]]
# (position of the call, tool, key, value as canonical JSON)
Parameter = tuple[int, str, str, str]


@dataclass(frozen=True)
class ParameterCounts:
    """Right, surplus and missing parameters, summed over calls."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: ParameterCounts) -> ParameterCounts:
        return ParameterCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 where no parameter was expected and none given."""
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / total if total else 1.0


@dataclass(frozen=True)
class ExampleScore:
    """One answer against the calls expected of it.

    Attributes:
        exact_match: the same tools in the same order with the same arguments.
        tool_accuracy: the same tools in the same order.
        parameters: counts over (position, tool, key, value).
        validity: the answer is calls and nothing else, and every call fits its tool's schema.
        executed: at least one call in the answer would run, whatever stands around it; prose about a call does not.
        actual: the calls of the answer, None where it does not parse.
        parse_error: why it does not parse.
    """

    exact_match: bool
    tool_accuracy: bool
    parameters: ParameterCounts
    validity: bool
    executed: bool
    actual: tuple[ToolCall, ...] | None
    parse_error: str | None


def canonical_json(value: Any) -> str:
    """One text for equal JSON values: 1 is 1.0 and keys have no order, but true is not 1 and "16" is not 16."""
    exact = json.loads(json.dumps(value), parse_float=_whole_if_possible)
    return json.dumps(exact, sort_keys=True)


def _whole_if_possible(digits: str) -> int | float:
    number = float(digits)
    return int(number) if number.is_integer() else number


def same_call(one: ToolCall, other: ToolCall) -> bool:
    """Whether two calls name the same tool and give it equal arguments."""
    return one.name == other.name and canonical_json(dict(one.arguments)) == canonical_json(dict(other.arguments))


def score_answer(text: str, expected: Sequence[ToolCall], validate_call: ValidateCall) -> ExampleScore:
    """Score one answer; an answer that does not parse has no calls, so all its parameters are missing."""
    answer = parse_calls(text)
    actual = answer.calls or ()
    return ExampleScore(
        exact_match=len(actual) == len(expected) and all(map(same_call, actual, expected)),
        tool_accuracy=[call.name for call in actual] == [call.name for call in expected],
        parameters=_count(_parameters(actual), _parameters(expected)),
        validity=answer.calls is not None and not any(validate_call(call) for call in answer.calls),
        executed=any(not validate_call(call) for call in find_calls(text)),
        actual=answer.calls,
        parse_error=answer.error,
    )


def _parameters(calls: Iterable[ToolCall]) -> set[Parameter]:
    return {
        (position, call.name, key, canonical_json(value))
        for position, call in enumerate(calls)
        for key, value in call.arguments.items()
    }


def _count(actual: set[Parameter], expected: set[Parameter]) -> ParameterCounts:
    return ParameterCounts(len(actual & expected), len(actual - expected), len(expected - actual))


def mean_scores(scores: Sequence[ExampleScore]) -> dict[str, float]:
    """Each metric over all examples: shares, and the micro F1 of the parameters.

    Raises:
        ValueError: there are no examples, so there is nothing to report.
    """
    if not scores:
        raise ValueError("no examples to score")
    return {
        "exact_match": sum(s.exact_match for s in scores) / len(scores),
        "tool_accuracy": sum(s.tool_accuracy for s in scores) / len(scores),
        "parameter_f1": sum((s.parameters for s in scores), ParameterCounts()).f1,
        "validity": sum(s.validity for s in scores) / len(scores),
        "execution_rate": sum(s.executed for s in scores) / len(scores),
    }


def per_tool_table(
    expected: Sequence[Sequence[ToolCall]], scores: Sequence[ExampleScore]
) -> dict[str, dict[str, int | float]]:
    """For every expected tool, how its own calls fared, most frequent tool first.

    An example counts for each tool it expects: as a match where every call of that tool stands in the answer at its
    place, equal (`exact_match`) or at least with this tool (`tool_accuracy`). `parameter_f1` is over this tool's
    parameters, those that the model gave it where another tool was expected included.
    """
    examples: Counter[str] = Counter()
    exact: Counter[str] = Counter()
    right_tool: Counter[str] = Counter()
    counts: dict[str, ParameterCounts] = {}
    for gold, score in zip(expected, scores, strict=True):
        actual = score.actual or ()
        for tool in dict.fromkeys(call.name for call in gold):
            places = [i for i, call in enumerate(gold) if call.name == tool]
            examples[tool] += 1
            exact[tool] += all(i < len(actual) and same_call(actual[i], gold[i]) for i in places)
            right_tool[tool] += all(i < len(actual) and actual[i].name == tool for i in places)
        for tool, found in _counts_by_tool(actual, gold).items():
            counts[tool] = counts.get(tool, ParameterCounts()) + found
    return {
        tool: {
            "examples": count,
            "exact_match": exact[tool] / count,
            "tool_accuracy": right_tool[tool] / count,
            "parameter_f1": counts.get(tool, ParameterCounts()).f1,
        }
        for tool, count in examples.most_common()
    }


def _counts_by_tool(actual: Sequence[ToolCall], expected: Sequence[ToolCall]) -> Mapping[str, ParameterCounts]:
    given, wanted = _parameters(actual), _parameters(expected)
    tools = {tool for _, tool, _, _ in given | wanted}
    return {tool: _count({p for p in given if p[1] == tool}, {p for p in wanted if p[1] == tool}) for tool in tools}
