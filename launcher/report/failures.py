"""What the wrong answers have in common: grouped by phrasing, most frequent first, each difference marked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.evaluate.metrics import canonical_json

EXAMPLES_SHOWN = 2


@dataclass(frozen=True)
class Piece:
    """A piece of a call as shown; `differs` from the call it is compared with."""

    text: str
    differs: bool


@dataclass(frozen=True)
class ShownCall:
    """One call for the reader: its name, and its arguments as (key, value)."""

    name: Piece
    arguments: tuple[tuple[Piece, Piece], ...]


@dataclass(frozen=True)
class Failure:
    """One wrong answer. `actual` is None where the answer does not parse; `text` is what the model wrote."""

    id: str
    instruction: str
    kind: str
    detail: str
    expected: tuple[ShownCall, ...]
    actual: tuple[ShownCall, ...] | None
    text: str


@dataclass(frozen=True)
class FailedTemplate:
    """The wrong answers to one phrasing: how many of how many, what kinds, and the first few."""

    template: str
    wrong: int
    total: int
    kinds: tuple[tuple[str, int], ...]
    examples: tuple[Failure, ...]


@dataclass(frozen=True)
class FailureSummary:
    """All wrong answers of one model on one part. A template is `solid` where all its answers are right."""

    examples: int
    wrong: int
    kinds: tuple[tuple[str, int], ...]
    templates: tuple[FailedTemplate, ...]
    solid_templates: int
    hopeless_templates: int
    all_templates: int


def summarize_failures(rows: Sequence[Mapping[str, Any]]) -> FailureSummary:
    """Group the lines of `predictions/*.jsonl` that are no exact match."""
    by_template: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_template.setdefault(str(row.get("template", "?")), []).append(row)
    groups = [_failed_template(name, members) for name, members in by_template.items()]
    failed = sorted((g for g in groups if g.wrong), key=lambda g: (-g.wrong, -g.wrong / g.total, g.template))
    kinds: Counter[str] = Counter()
    for group in failed:
        kinds.update(dict(group.kinds))
    return FailureSummary(
        examples=len(rows),
        wrong=sum(group.wrong for group in failed),
        kinds=tuple(kinds.most_common()),
        templates=tuple(failed),
        solid_templates=sum(group.wrong == 0 for group in groups),
        hopeless_templates=sum(group.wrong == group.total for group in groups),
        all_templates=len(groups),
    )


def _failed_template(template: str, rows: Sequence[Mapping[str, Any]]) -> FailedTemplate:
    failures = [_failure(row) for row in rows if not row.get("exact_match")]
    kinds = Counter(failure.kind for failure in failures)
    # An example of each kind before a second one of any.
    first_of_kind = {failure.kind: failure for failure in reversed(failures)}
    shown = [first_of_kind[kind] for kind, _ in kinds.most_common()]
    shown += [failure for failure in failures if failure not in shown]
    return FailedTemplate(template, len(failures), len(rows), tuple(kinds.most_common()), tuple(shown[:EXAMPLES_SHOWN]))


def _failure(row: Mapping[str, Any]) -> Failure:
    expected, actual = _calls(row.get("expected")) or [], _calls(row.get("actual"))
    kind, detail = _kind(expected, actual, str(row.get("parse_error") or ""))
    return Failure(
        id=str(row.get("id", "")),
        instruction=str(row.get("instruction", "")),
        kind=kind,
        detail=detail,
        expected=_shown(expected, expected if actual is None else actual),
        actual=None if actual is None else _shown(actual, expected),
        text=str(row.get("text", "")),
    )


def _calls(value: Any) -> list[dict[str, Any]] | None:
    if not isinstance(value, list):
        return None
    return [
        {
            "name": str(call.get("name")),
            "arguments": call.get("arguments") if isinstance(call.get("arguments"), dict) else {},
        }
        for call in value
        if isinstance(call, dict)
    ]


def _kind(expected: list[dict[str, Any]], actual: list[dict[str, Any]] | None, error: str) -> tuple[str, str]:
    """The kind of a failure, and its detail in words."""
    if actual is None:
        return "not a call", error or "does not parse"
    if len(actual) != len(expected):
        return "wrong number of calls", f"{len(actual)} instead of {len(expected)}"
    for want, got in zip(expected, actual, strict=True):
        if want["name"] != got["name"]:
            return "wrong tool", f"{got['name']} instead of {want['name']}"
    wrong, missing, surplus = [], [], []
    for want, got in zip(expected, actual, strict=True):
        wanted, given = want["arguments"], got["arguments"]
        wrong += [key for key in wanted if key in given and not _equal(wanted[key], given[key])]
        missing += [key for key in wanted if key not in given]
        surplus += [key for key in given if key not in wanted]
    if wrong:
        return "wrong value", ", ".join(wrong)
    return ("missing argument", ", ".join(missing)) if missing else ("surplus argument", ", ".join(surplus))


def _shown(calls: list[dict[str, Any]], others: list[dict[str, Any]]) -> tuple[ShownCall, ...]:
    """The calls with every piece marked that the other answer does not have at the same place."""
    shown = []
    for i, call in enumerate(calls):
        other = others[i] if i < len(others) else {"name": None, "arguments": {}}
        arguments = tuple(
            (
                Piece(key, key not in other["arguments"]),
                Piece(
                    json.dumps(value, ensure_ascii=False),
                    key not in other["arguments"] or not _equal(value, other["arguments"][key]),
                ),
            )
            for key, value in call["arguments"].items()
        )
        shown.append(ShownCall(Piece(call["name"], call["name"] != other["name"]), arguments))
    return tuple(shown)


def _equal(one: Any, other: Any) -> bool:
    return canonical_json(one) == canonical_json(other)
