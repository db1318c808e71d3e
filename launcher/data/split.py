"""Split examples into train, validation and test by phrasing template, and write down what went where."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from launcher.data.examples import ToolExample
from launcher.data.plan_format import record_from_example, to_json_lines

PARTS = ("train", "validation", "test")


def split_examples(
    examples: Sequence[ToolExample], shares: Mapping[str, float], seed: int
) -> dict[str, tuple[ToolExample, ...]]:
    """Split so that all examples of one template are in one part.

    Every part gets its share of the examples, off by less than the largest template has; inside that, tools,
    difficulties and sources are spread evenly. The order of the examples is kept in each part.

    Args:
        examples: All examples, in the order they were read; it does not matter for who goes where.
        shares: Share of `train`, `validation` and `test`; they sum to 1.
        seed: Decides between choices that are equally good.
    """
    groups: dict[str, list[ToolExample]] = defaultdict(list)
    for example in examples:
        groups[example.template].append(example)
    sizes = part_sizes(len(examples), shares)
    labels = {template: Counter(label for e in group for label in _labels(e)) for template, group in groups.items()}
    all_labels = sum(labels.values(), Counter())
    room: dict[str, int] = dict(sizes)
    label_room = {part: {label: n * shares[part] for label, n in all_labels.items()} for part in PARTS}
    order = sorted(groups)
    random.Random(f"split-{seed}").shuffle(order)
    part_of: dict[str, str] = {}
    for template in sorted(order, key=lambda name: -len(groups[name])):
        size, own = len(groups[template]), labels[template]

        def need(part: str, own: Counter[str] = own) -> float:
            """How empty the part still is of what this template brings, 1 for all; scarce labels count most."""
            weight = {label: n / all_labels[label] for label, n in own.items()}
            empty = {label: label_room[part][label] / (all_labels[label] * shares[part]) for label in own}
            return sum(weight[label] * empty[label] for label in own) / sum(weight.values())

        # A part with room for all of it never overflows; where there is none, the emptiest overflows the least.
        fitting = [part for part in PARTS if room[part] >= size]
        part = max(fitting, key=need) if fitting else max(PARTS, key=lambda part: room[part])
        part_of[template] = part
        room[part] -= size
        for label, n in own.items():
            label_room[part][label] -= n
    return {part: tuple(e for e in examples if part_of[e.template] == part) for part in PARTS}


def part_sizes(examples: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers of examples by largest remainder, in the parts' order where remainders are equal: 683/86/85."""
    # Fractions of the decimal as written: 0.1 is one tenth, so that equal remainders are equal.
    fractions = {part: Fraction(str(shares[part])) for part in PARTS}
    exact = {part: examples * share / sum(fractions.values()) for part, share in fractions.items()}
    sizes = {part: int(share) for part, share in exact.items()}
    by_remainder = sorted(PARTS, key=lambda part: sizes[part] - exact[part])
    for part in by_remainder[: examples - sum(sizes.values())]:
        sizes[part] += 1
    return sizes


def split_manifest(parts: Mapping[str, Sequence[ToolExample]]) -> dict[str, Any]:
    """For each part: counts by tool (of calls), difficulty and source, the template ids, and a hash of the examples."""
    return {part: _describe(examples) for part, examples in parts.items()}


def _describe(examples: Sequence[ToolExample]) -> dict[str, Any]:
    lines = to_json_lines(record_from_example(example) for example in examples)
    return {
        "examples": len(examples),
        "calls": sum(len(example.calls) for example in examples),
        "calls_per_tool": _counts(call.name for example in examples for call in example.calls),
        "difficulty": _counts(example.difficulty for example in examples),
        "source": _counts(example.source for example in examples),
        "templates": sorted({example.template for example in examples}),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _labels(example: ToolExample) -> list[str]:
    """What has to be spread evenly over the parts."""
    tools = sorted({call.name for call in example.calls})
    return [*(f"tool {tool}" for tool in tools), f"difficulty {example.difficulty}", f"source {example.source}"]
