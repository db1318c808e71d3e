"""The split by phrasing template: whole templates, right sizes, even tools, the same every time."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.data.examples import ToolCall, ToolExample
from launcher.data.generator import generate
from launcher.data.plan_format import example_from_record
from launcher.data.split import PARTS, part_sizes, split_examples, split_manifest

PLAN = {"train": 0.8, "validation": 0.1, "test": 0.1}


def make(number: int, template: int, tool: int, calls: int = 1, source: str = "unknown") -> ToolExample:
    return ToolExample(f"e{number}", f"Do {number}", (ToolCall(f"tool.{tool}", {}),) * calls, f"t{template}", source)


EXAMPLES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(1, 3), st.sampled_from(["synthetic", "extracted"])),
    max_size=80,
).map(lambda rows: [make(i, *row) for i, row in enumerate(rows)])
SHARES = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(0, 20)).map(
    lambda n: {part: weight / sum(n) for part, weight in zip(PARTS, n, strict=True)}
)


@given(EXAMPLES, SHARES, st.integers(0, 5))
def test_whole_templates_every_example_once_and_sizes_within_the_largest_template(examples, shares, seed):
    parts = split_examples(examples, shares, seed)
    assert sorted(e.id for part in parts.values() for e in part) == sorted(e.id for e in examples)
    templates = [{e.template for e in parts[part]} for part in PARTS]
    assert sum(len(t) for t in templates) == len(set().union(*templates))
    largest = max(Counter(e.template for e in examples).values(), default=0)
    for part, size in part_sizes(len(examples), shares).items():
        assert abs(len(parts[part]) - size) <= largest
    if not shares["test"]:
        assert not parts["test"]


@given(EXAMPLES, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_file_decides_nothing(examples, seed, rng):
    shuffled = rng.sample(examples, len(examples))
    first, second = split_examples(examples, PLAN, seed), split_examples(shuffled, PLAN, seed)
    assert {p: {e.id for e in first[p]} for p in PARTS} == {p: {e.id for e in second[p]} for p in PARTS}


@given(st.integers(0, 10**6), SHARES)
def test_sizes_add_up_and_are_within_one(examples, shares):
    sizes = part_sizes(examples, shares)
    assert sum(sizes.values()) == examples
    assert all(abs(sizes[part] - examples * shares[part]) < 1.001 for part in PARTS)


def test_the_plans_sizes():
    assert part_sizes(854, PLAN) == {"train": 683, "validation": 86, "test": 85}


@settings(max_examples=20)
@given(st.integers(0, 100))
def test_tools_difficulties_and_sources_are_spread_evenly(seed):
    rng = random.Random(seed)
    examples = [
        make(i, i // 2, rng.randrange(4), rng.randint(1, 3), rng.choice(["synthetic", "extracted"])) for i in range(400)
    ]
    parts = split_examples(examples, PLAN, seed)
    for label in (lambda e: e.calls[0].name, lambda e: e.difficulty, lambda e: e.source):
        whole = Counter(map(label, examples))
        for part in PARTS:
            for name, number in Counter(map(label, parts[part])).items():
                assert abs(number - whole[name] * PLAN[part]) <= 4, (part, name)


def test_a_users_own_file_with_the_plans_data_is_split_by_phrasing_too():
    examples = [example_from_record(record, "here", None) for record in generate(0).records]
    parts = split_examples(examples, PLAN, seed=0)
    sizes = {part: len(parts[part]) for part in PARTS}
    assert sizes == {"train": 683, "validation": 86, "test": 85}
    manifest = split_manifest(parts)
    assert not set(manifest["train"]["templates"]) & set(manifest["test"]["templates"])
    for tool, calls in manifest["train"]["calls_per_tool"].items():
        whole = sum(manifest[part]["calls_per_tool"].get(tool, 0) for part in PARTS)
        if whole >= 40:
            assert calls / whole == pytest.approx(0.8, abs=0.06), tool


def test_another_seed_is_another_split():
    examples = [make(i, i, i % 3) for i in range(60)]
    assert split_examples(examples, PLAN, 0) != split_examples(examples, PLAN, 1)


def test_the_manifest_counts_and_hashes_every_part():
    examples = [make(i, i, i % 2, calls=1 + i % 3) for i in range(30)]
    parts = split_examples(examples, PLAN, 0)
    manifest = split_manifest(parts)
    assert sum(manifest[part]["examples"] for part in PARTS) == 30
    assert sum(sum(manifest[part]["calls_per_tool"].values()) for part in PARTS) == 60
    assert sum((Counter(manifest[part]["difficulty"]) for part in PARTS), Counter()) == {
        "simple": 10, "medium": 10, "complex": 10,
    }  # fmt: skip
    fewer = split_manifest({**parts, "test": parts["test"][1:]})
    assert fewer["test"]["sha256"] != manifest["test"]["sha256"]
    assert fewer["train"] == manifest["train"]
