"""One part scored from answers to figures: the documented shape, right values, prices, and targets reached."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import launcher
from launcher.data.examples import ToolCall, ToolExample
from launcher.data.tools import load_tools
from launcher.evaluate import score
from launcher.evaluate.generate import Generation
from launcher.evaluate.parsing import render_calls
from launcher.evaluate.score import evaluate_part, quick_metrics
from launcher.evaluate.targets import compare_with_targets

TINY_BASE = Path(launcher.__file__).parent / "assets" / "tiny-base"
RATES = ["exact_match", "tool_accuracy", "parameter_f1", "validity", "execution_rate"]
SPEED = ["tokens_per_second", "time_to_first_token_s", "usd_per_million_tokens"]


def example(i):
    call = ToolCall("mesen2.run", {"frames": 10 + i})
    return ToolExample(f"e{i}", f"Run {10 + i} frames", (call,), f"t{i % 8}", "test")


EXAMPLES = [example(i) for i in range(16)]


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained(TINY_BASE, dtype=torch.float32), AutoTokenizer.from_pretrained(
        TINY_BASE
    )


def evaluate(tiny, examples=EXAMPLES, usd_per_hour=0.36, **options):
    model, tokenizer = tiny
    return evaluate_part(
        model, tokenizer, examples, system_prompt="You run an emulator.", tool_set=load_tools(), tools_in_prompt=False,
        batch=8, usd_per_hour=usd_per_hour, bootstrap_samples=200, seed=0, **options,
    )  # fmt: skip


@pytest.fixture
def answers(monkeypatch):
    """Put given texts in place of what the model would say: 100 tokens in 2 seconds."""

    def use(texts):
        monkeypatch.setattr(score, "generate_answers", lambda *a, **k: Generation(texts, 100, 2.0, 0.05))

    return use


def test_figures_of_known_answers(tiny, answers):
    texts = [render_calls(e.calls) for e in EXAMPLES]
    texts[0] = "I would run 10 frames"
    texts[1] = render_calls([ToolCall("mesen2.run", {"frames": 99})])
    texts[2] = render_calls([ToolCall("mesen2.dance", {})])
    answers(texts)

    scores, rows = evaluate(tiny)

    assert (scores["examples"], scores["templates"]) == (16, 8)
    assert list(scores["metrics"]) == RATES + SPEED
    values = {name: entry["value"] for name, entry in scores["metrics"].items()}
    assert values["exact_match"] == pytest.approx(13 / 16)
    assert values["tool_accuracy"] == values["validity"] == values["execution_rate"] == pytest.approx(14 / 16)
    assert values["parameter_f1"] == pytest.approx(26 / (26 + 1 + 3))
    assert values["tokens_per_second"] == 50.0
    assert values["time_to_first_token_s"] == 0.05
    assert values["usd_per_million_tokens"] == pytest.approx(2.0)  # 0.36 usd buy 3,600 s x 50 tokens/s = 180,000
    assert all(
        entry["low"] <= entry["value"] <= entry["high"] for name, entry in scores["metrics"].items() if name in RATES
    )
    assert scores["per_tool"]["mesen2.run"]["examples"] == 16
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores

    assert rows[0] == {
        "id": "e0", "template": "t0", "instruction": "Run 10 frames",
        "expected": [{"name": "mesen2.run", "arguments": {"frames": 10}}], "actual": None,
        "text": "I would run 10 frames", "exact_match": False, "tool_accuracy": False,
        "parse_error": "no tool call, only text",
    }  # fmt: skip
    assert rows[1]["actual"] == [{"name": "mesen2.run", "arguments": {"frames": 99}}]
    assert [row["exact_match"] for row in rows] == [False] * 3 + [True] * 13


def test_without_a_price_the_cost_is_unknown(tiny, answers):
    answers([render_calls(e.calls) for e in EXAMPLES])
    scores, _ = evaluate(tiny, usd_per_hour=None)
    assert scores["metrics"]["usd_per_million_tokens"] == {"value": None}


def test_no_examples_no_figures(tiny):
    assert evaluate(tiny, examples=[]) == ({"examples": 0, "templates": 0, "metrics": {}, "per_tool": {}}, [])


def test_the_tiny_base_is_really_asked(tiny):
    done = []
    scores, rows = evaluate(tiny, progress=done.append)
    assert done == [8, 8]
    assert [row["id"] for row in rows] == [e.id for e in EXAMPLES]
    assert all(row["text"] for row in rows)
    assert scores["metrics"]["exact_match"]["value"] <= 0.1  # it does not know these tools
    speed = scores["metrics"]
    assert all(speed[name]["value"] > 0 and math.isfinite(speed[name]["value"]) for name in SPEED)

    model, tokenizer = tiny
    quick = quick_metrics(
        model,
        tokenizer,
        EXAMPLES,
        system_prompt="You run an emulator.",
        tool_set=load_tools(),
        tools_in_prompt=False,
        batch=8,
    )
    assert quick == pytest.approx({name: scores["metrics"][name]["value"] for name in RATES})


def scored(**values):
    return {"metrics": {name: {"value": value} for name, value in values.items()}}


def test_targets_reached_by_tier_and_lower_is_better_for_latency():
    targets = {
        "exact_match": {"mvp": 0.85, "production": 0.9, "stretch": 0.95},
        "latency_ms": {"mvp": 500, "production": 300, "stretch": None},
        "validity": {"mvp": 1.0},
    }
    rows = compare_with_targets(scored(exact_match=0.9, time_to_first_token_s=0.45, validity=0.99), targets)
    assert [(r.metric, r.value, r.reached) for r in rows] == [
        ("exact_match", 0.9, "production"),
        ("latency_ms", 450.0, "mvp"),
        ("validity", 0.99, None),
    ]
    assert rows[1].tiers == {"mvp": 500.0, "production": 300.0}


def test_targets_of_what_was_not_measured_are_not_reached():
    [row] = compare_with_targets({}, {"exact_match": {"mvp": 0.0}})
    assert (row.value, row.reached) == (None, None)
