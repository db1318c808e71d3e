"""One model on one part of the data: answers, metrics with intervals, speed, and what a million tokens cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from launcher.data.chat import prompt_messages
from launcher.data.examples import ToolCall, ToolExample
from launcher.data.tools import ToolSet
from launcher.evaluate.bootstrap import metric_ratios, template_intervals
from launcher.evaluate.generate import Generation, Progress, cap_new_tokens, generate_answers
from launcher.evaluate.metrics import ExampleScore, mean_scores, per_tool_table, score_answer
from launcher.evaluate.parsing import render_calls

SECONDS_PER_HOUR = 3600.0
TOKENS_PER_PRICE = 1_000_000


def evaluate_part(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[ToolExample],
    *,
    system_prompt: str | None,
    tool_set: ToolSet,
    tools_in_prompt: bool,
    batch: int,
    usd_per_hour: float | None,
    bootstrap_samples: int,
    seed: int,
    max_new_tokens: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score a model on examples; returns SCORES and the lines of `predictions/*.jsonl` (see docs/structure.md).

    Args:
        tools_in_prompt: whether the chat template is given the tools' schemas.
        batch: prompts generated at once.
        usd_per_hour: price of the machine; None leaves the cost per million tokens unknown.
        bootstrap_samples: for the intervals over templates; `seed` is theirs.
        max_new_tokens: cap on an answer; None: the longest expected answer and 30 %.
        progress: told the number of prompts done, after each batch.
    """
    if not examples:
        return {"examples": 0, "templates": 0, "metrics": {}, "per_tool": {}}, []
    generation = _answer(
        model,
        tokenizer,
        examples,
        system_prompt,
        tool_set if tools_in_prompt else None,
        batch,
        max_new_tokens,
        progress,
    )
    scores = _score(generation.texts, examples, tool_set)
    templates = [example.template for example in examples]
    intervals = template_intervals(metric_ratios(scores), templates, bootstrap_samples, seed)
    metrics = {name: estimate.to_json() for name, estimate in intervals.items()} | _speed(generation, usd_per_hour)
    summary = {
        "examples": len(examples),
        "templates": len(set(templates)),
        "metrics": metrics,
        "per_tool": per_tool_table([example.calls for example in examples], scores),
    }
    rows = [_prediction(*row) for row in zip(examples, generation.texts, scores, strict=True)]
    return summary, rows


def quick_metrics(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[ToolExample],
    *,
    system_prompt: str | None,
    tool_set: ToolSet,
    tools_in_prompt: bool,
    batch: int,
    max_new_tokens: int | None = None,
) -> dict[str, float]:
    """The metrics of an evaluation during training: no intervals, no timing of single prompts.

    Returns:
        exact_match, tool_accuracy, parameter_f1, validity and execution_rate.
    """
    generation = _answer(
        model, tokenizer, examples, system_prompt, tool_set if tools_in_prompt else None, batch, max_new_tokens,
        progress=None, measure_first_token=False,
    )  # fmt: skip
    return mean_scores(_score(generation.texts, examples, tool_set))


def _answer(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[ToolExample],
    system_prompt: str | None,
    prompt_tools: ToolSet | None,
    batch: int,
    max_new_tokens: int | None,
    progress: Progress | None,
    measure_first_token: bool = True,
) -> Generation:
    cap = max_new_tokens or cap_new_tokens(tokenizer, (render_calls(example.calls) for example in examples))
    return generate_answers(
        model,
        tokenizer,
        [prompt_messages(example, system_prompt or "") for example in examples],
        tools=prompt_tools.functions() if prompt_tools else None,
        batch_size=batch,
        max_new_tokens=cap,
        progress=progress,
        measure_first_token=measure_first_token,
    )


def _score(texts: Sequence[str], examples: Sequence[ToolExample], tool_set: ToolSet) -> list[ExampleScore]:
    return [
        score_answer(text, example.calls, tool_set.validate_call) for text, example in zip(texts, examples, strict=True)
    ]


def _speed(generation: Generation, usd_per_hour: float | None) -> dict[str, dict[str, float | None]]:
    speed = generation.tokens_per_second
    usd = usd_per_hour / (speed * SECONDS_PER_HOUR) * TOKENS_PER_PRICE if usd_per_hour is not None and speed else None
    return {
        "tokens_per_second": {"value": speed},
        "time_to_first_token_s": {"value": generation.time_to_first_token_s},
        "usd_per_million_tokens": {"value": usd},
    }


def _prediction(example: ToolExample, text: str, score: ExampleScore) -> dict[str, Any]:
    return {
        "id": example.id,
        "template": example.template,
        "instruction": example.instruction,
        "expected": _as_json(example.calls),
        "actual": None if score.actual is None else _as_json(score.actual),
        "text": text,
        "exact_match": score.exact_match,
        "tool_accuracy": score.tool_accuracy,
        "parse_error": score.parse_error,
    }


def _as_json(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
