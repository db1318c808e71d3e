"""What each of the training chapter's three paths costs, from the chapter's own assumptions with its arithmetic mended.

Its prices are those it states (early 2025); they show which way a decision leans. For a bill, `launcher compare-api`
takes today's prices. What was mended, and shown in docs/seeds-recomputed.md: epochs are billed, weekly retraining is
part of the month, answers are billed, uploads cost cents, GPUs are rented by the hour instead of bought.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from launcher.cost.self_hosting import Mode, Serving

CHAPTER_CALLS = 1_000_000.0  # the chapter prices everything for a million requests a month
WEEKS_PER_MONTH = 52.18 / 12

# The chapter's figures: US dollars per million tokens, tokens per request.
PROMPT_TOKENS = 2000
TUNED_TOKENS = 200
BASE_USD_PER_MILLION = 3.0
TUNED_USD_PER_MILLION = 9.0
TRAINING_USD = 10_000 * 1_000 * 8.0 / 1e6  # 10K examples x 1K tokens x $8 per million
EPOCHS = 3
SERVERS_USD = (10_000.0, 50_000.0)
# Ours. The chapter leaves answers out: a tool call is some 100 tokens, and output costs five times input.
ANSWER_TOKENS = 100
OUTPUT_FACTOR = 5
# One A100 80 GB at RunPod in the shipped catalog; a 32B model on it serves some 2,000 tokens a second (serving_speed).
GPU_USD_PER_HOUR = 1.39
SERVED_TOKENS_PER_SECOND = 2000.0
TRAINING_RUN_USD = (5.0, 50.0)  # a LoRA run of 10 to 20 M tokens, 7B to 70B, on rented GPUs


class Path(StrEnum):
    """The chapter's three paths."""

    PROMPTS = "prompt_engineering"
    CLOUD = "cloud_fine_tuning"
    LOCAL = "local_lora"


@dataclass(frozen=True, kw_only=True)
class PathCost:
    """US dollars once (`setup`) and a month, each from the least to the most that the assumptions in `basis` allow."""

    path: Path
    setup_low_usd: float
    setup_high_usd: float
    monthly_low_usd: float
    monthly_high_usd: float
    basis: str


def path_cost(path: Path, monthly_calls: float | None) -> PathCost:
    """One path at this many calls a month; at the chapter's million where nobody knows how many there are."""
    calls = CHAPTER_CALLS if monthly_calls is None else monthly_calls
    cost = {Path.PROMPTS: _prompts, Path.CLOUD: _cloud, Path.LOCAL: _local}[path]
    known = f"{calls:,.0f} calls a month" + ("" if monthly_calls else " (the chapter's; give --monthly-calls)")
    return cost(calls, known)


def _tokens_usd(calls: float, tokens: float, usd_per_million: float) -> float:
    return calls * tokens * usd_per_million / 1e6


def _prompts(calls: float, known: str) -> PathCost:
    context = _tokens_usd(calls, PROMPT_TOKENS, BASE_USD_PER_MILLION)
    answers = _tokens_usd(calls, ANSWER_TOKENS, BASE_USD_PER_MILLION * OUTPUT_FACTOR)
    return PathCost(
        path=Path.PROMPTS,
        setup_low_usd=0.0,
        setup_high_usd=0.0,
        monthly_low_usd=context,
        monthly_high_usd=context + answers,
        basis=f"{known} x {PROMPT_TOKENS} tokens x ${BASE_USD_PER_MILLION:g} per million; high: with answers",
    )


def _cloud(calls: float, known: str) -> PathCost:
    context = _tokens_usd(calls, TUNED_TOKENS, TUNED_USD_PER_MILLION)
    answers = _tokens_usd(calls, ANSWER_TOKENS, TUNED_USD_PER_MILLION * OUTPUT_FACTOR)
    run = TRAINING_USD * EPOCHS
    return PathCost(
        path=Path.CLOUD,
        setup_low_usd=run,
        setup_high_usd=run,
        monthly_low_usd=context,
        monthly_high_usd=context + answers + WEEKS_PER_MONTH * run,
        basis=(
            f"{known} x {TUNED_TOKENS} tokens x ${TUNED_USD_PER_MILLION:g} per million; a run is {EPOCHS} epochs, "
            f"${run:g}; high: with answers and weekly retraining"
        ),
    )


def _local(calls: float, known: str) -> PathCost:
    serving = Serving(
        usd_per_hour=GPU_USD_PER_HOUR,
        tokens_per_second=SERVED_TOKENS_PER_SECOND,
        tokens_per_call=TUNED_TOKENS + ANSWER_TOKENS,
    )
    always = serving.usd(Mode.ALWAYS_ON, calls)
    low, high = TRAINING_RUN_USD
    return PathCost(
        path=Path.LOCAL,
        setup_low_usd=low,
        setup_high_usd=SERVERS_USD[1],
        monthly_low_usd=min(always, serving.usd(Mode.BY_HOUR, calls)),
        monthly_high_usd=2 * always + WEEKS_PER_MONTH * high,
        basis=(
            f"{known} of {TUNED_TOKENS + ANSWER_TOKENS} tokens on A100s rented at ${GPU_USD_PER_HOUR:g} an hour; low: "
            "in batch windows; high: always on with a second machine and weekly retraining; setup low: a rented "
            "training run, high: the chapter's servers"
        ),
    )
