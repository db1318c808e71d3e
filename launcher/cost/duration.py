"""How long a job will take, from the first paid second to the last: training, and the fixed costs around it.

Every phase is a `Spread` in seconds; their sum is an interval. For a job of an hour the fixed part is 15 to 40 % of the
bill. `Duration.sources` says of each phase whether it is published, calibrated, from the offer or assumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.cost.fixed_times import fixed_times
from launcher.cost.generation import evaluation_seconds
from launcher.cost.gpus import GpuModel
from launcher.cost.offer import Provider
from launcher.cost.speed import tokens_per_second_per_gpu
from launcher.cost.speed_constants import load_fitted
from launcher.cost.spread import Quantiles, Spread, total
from launcher.cost.workload import Workload
from launcher.errors import BadInput

SECONDS_PER_HOUR = 3600.0
# Factor around the model of eager generation, 10th to 90th percentile; one published check (launcher.cost.generation).
GENERATION_FACTORS = (0.5, 1.0, 2.0)
# From a lost machine until the next one is asked for: SkyPilot's managed jobs look every 20 s, and look twice. Assumed.
RECOVERY_S = 60.0
# Paid again after a preemption, on the next machine.
PAID_AGAIN = ("provisioning", "environment", "model download", "load", "probe")


@dataclass(frozen=True)
class Work:
    """What one job does, in amounts; all of it known before renting.

    train_tokens: that the model processes in all training steps, padding included, over all GPUs. token_count_spread:
    factor around it, None where counted. micro_steps: forward and backward passes of one GPU. prompt_tokens,
    answer_tokens: means per evaluated prompt. final_prompts: those of base and tuned model on the test sets together.
    """

    train_tokens: float
    token_count_spread: Spread | None
    micro_steps: int
    optimizer_steps: int
    evaluations: int
    prompts_per_evaluation: int
    prompt_tokens: float
    answer_tokens: float
    final_prompts: int
    saves: int
    checkpoint_gib: float

    @property
    def evaluated_prompts(self) -> int:
        """Prompts answered in the whole job."""
        return self.evaluations * self.prompts_per_evaluation + self.final_prompts


@dataclass(frozen=True)
class Duration:
    """Seconds by phase, their sum in hours, the training alone in hours, and where each phase's figure comes from."""

    terms: Mapping[str, Spread]
    hours: Quantiles
    training_hours: Quantiles
    sources: Mapping[str, str]


def estimate_duration(
    workload: Workload,
    work: Work,
    gpu: GpuModel,
    provider: Provider,
    download_gbit_s: float | None,
    calibration: Spread | None = None,
) -> Duration:
    """The duration of a job on one kind of machine.

    Args:
        workload: with the longest row everywhere; training is timed with the mean row of `work`.
        download_gbit_s: the line's measured speed, None where unknown.
        calibration: tokens per second per GPU measured with this stack on this GPU.

    Raises:
        BadInput: tokens, steps or a download speed that are not positive, finite numbers.
    """
    _refuse_bad_numbers(work, download_gbit_s)
    fixed = fixed_times(workload, work.saves, work.checkpoint_gib, provider, download_gbit_s)
    longest_step = workload.tokens / tokens_per_second_per_gpu(workload, gpu).median
    training = _training_seconds(workload, work, gpu, calibration)
    computed = {
        "probe": (fixed.warm_up_plus(2 * longest_step), "assumed warm-up, and two of the longest micro-steps"),
        "training": (training, "calibrated" if calibration else _prior_source(gpu)),
        "evaluation": (_evaluation(workload, work, gpu), "assumed: memory and launch bound, known to a factor of two"),
    }
    by_phase = {**fixed.before, **computed, **fixed.after}
    terms = {phase: term for phase, (term, _) in by_phase.items()}
    return _duration(terms, {phase: source for phase, (_, source) in by_phase.items()})


def with_preemptions(
    duration: Duration, rate_per_hour: float, checkpoint_interval_s: float, restart_s: float = RECOVERY_S
) -> Duration:
    """The same job on a machine that is taken away `rate_per_hour` times an hour, with what that costs in time.

    Each time the fixed costs come again, `restart_s` passes first, and half a checkpoint interval on average is done
    again. What is done again may be lost again: expected hours H = H0 + rate x H x loss.

    Raises:
        BadInput: a figure is negative or not finite, or the job loses time as fast as it gains it.
    """
    figures = {"rate_per_hour": rate_per_hour, "checkpoint_interval_s": checkpoint_interval_s, "restart_s": restart_s}
    faults = [f"{name}: {value}: 0 or more is needed" for name, value in figures.items() if not 0 <= value < math.inf]
    if faults:
        raise BadInput(*faults)
    again = sum(duration.terms[phase].median for phase in PAID_AGAIN if phase in duration.terms)
    training = duration.terms["training"].median
    loss_s = restart_s + again + min(checkpoint_interval_s, training) / 2
    lost_share = rate_per_hour * loss_s / SECONDS_PER_HOUR
    if lost_share >= 1:
        raise BadInput(
            f"spot: {rate_per_hour:g} preemptions an hour, each losing {loss_s / 60:.0f} minutes: the job would never "
            "end; save more often, or rent without spot"
        )
    undisturbed_s = duration.hours.p50 * SECONDS_PER_HOUR
    expected = rate_per_hour / SECONDS_PER_HOUR * undisturbed_s / (1 - lost_share)
    terms = {**duration.terms, "preemptions": _preempted(expected, loss_s)}
    return _duration(terms, {**duration.sources, "preemptions": "assumed rate of preemption"})


def _preempted(expected: float, loss_s: float) -> Spread:
    """Seconds lost to `expected` preemptions: a log-normal with that mean, as wide as their count, at most e-fold."""
    if expected == 0:
        return Spread(0.0)
    deviation = min(1.0, 1 / math.sqrt(expected))
    return Spread(expected * loss_s * math.exp(-(deviation**2) / 2), deviation, deviation)


def _training_seconds(workload: Workload, work: Work, gpu: GpuModel, calibration: Spread | None) -> Spread:
    """All micro-steps, each with the mean number of tokens: short rows cost more per token than the longest one."""
    if calibration is not None:
        seconds = calibration.inverse().times(work.train_tokens / workload.gpus)
    else:
        mean = _with_mean_rows(workload, work)
        accumulation = work.micro_steps / work.optimizer_steps
        speed = tokens_per_second_per_gpu(mean, gpu, accumulation=accumulation)
        seconds = speed.inverse().times(mean.tokens * work.micro_steps)
    counted = work.token_count_spread or Spread(1.0)
    return Spread(
        seconds.median * counted.median,
        math.hypot(seconds.below, counted.below),
        math.hypot(seconds.above, counted.above),
    )


def _with_mean_rows(workload: Workload, work: Work) -> Workload:
    """The workload of a micro-step of mean length, rounded up to whole tokens a row."""
    rows = work.micro_steps * workload.gpus * workload.micro_batch
    length = max(1, math.ceil(work.train_tokens / rows))
    trained = workload.trained_tokens
    if trained is not None:
        trained = max(1, math.ceil(trained * length / workload.seq_len))
    return dataclasses.replace(workload, seq_len=length, trained_tokens=trained)


def _evaluation(workload: Workload, work: Work, gpu: GpuModel) -> Spread:
    seconds = evaluation_seconds(
        workload, gpu, load_fitted().constants, work.evaluated_prompts, work.prompt_tokens, work.answer_tokens
    )
    return Spread.from_quantiles(*GENERATION_FACTORS).times(seconds)


def _prior_source(gpu: GpuModel) -> str:
    measured = gpu.chip in load_fitted().chips
    return "published runs" if measured else f"published runs on other chips than {gpu.name}'s"


def _duration(terms: Mapping[str, Spread], sources: Mapping[str, str]) -> Duration:
    training = terms["training"]
    return Duration(
        terms=terms,
        hours=total(list(terms.values())).times(1 / SECONDS_PER_HOUR),
        training_hours=Quantiles(*(training.quantile(share) for share in (0.1, 0.5, 0.9))).times(1 / SECONDS_PER_HOUR),
        sources=sources,
    )


def _refuse_bad_numbers(work: Work, download_gbit_s: float | None) -> None:
    positive = {
        "train_tokens": work.train_tokens,
        "micro_steps": work.micro_steps,
        "optimizer_steps": work.optimizer_steps,
        **({} if download_gbit_s is None else {"download_gbit_s": download_gbit_s}),
    }
    not_negative = {
        name: getattr(work, name)
        for name in ("evaluated_prompts", "prompt_tokens", "answer_tokens", "saves", "checkpoint_gib")
    }
    faults = [f"{name}: {value}: more than 0 is needed" for name, value in positive.items() if not 0 < value < math.inf]
    faults += [
        f"{name}: {value}: 0 or more is needed" for name, value in not_negative.items() if not 0 <= value < math.inf
    ]
    if faults:
        raise BadInput(*faults)
