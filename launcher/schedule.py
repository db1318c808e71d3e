"""From the number of training examples to optimizer steps, evaluations and saves; what cannot work is refused.

The arithmetic is that of transformers' Trainer (`set_initial_training_values`, `DefaultFlowCallback`): a last, partial
accumulation counts as a step, and the last step is evaluated and saved in any case.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.errors import BadInput
from launcher.jobparts import EarlyStoppingSpec, TrainSpec

WANTED_EVALUATIONS = 8


@dataclass(frozen=True)
class Schedule:
    """When what happens, in optimizer steps. Patience may stop from `patience_from_step` on, not before.

    With `batch: max`, `micro_batch` is the largest there is, the whole effective batch; where that does not fit, the
    trainer takes one of `smaller_micro_batches` by `with_micro_batch`. Steps and points stay the same.
    """

    optimizer_steps: int
    steps_per_epoch: int
    eval_steps: int
    save_steps: int
    warmup_steps: int
    effective_batch: int
    micro_batch: int
    patience_from_step: int

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step."""
        return self.effective_batch // self.micro_batch

    @property
    def smaller_micro_batches(self) -> list[int]:
        """The micro-batches below the present one that make up the same effective batch, largest first."""
        return [size for size in range(self.micro_batch - 1, 0, -1) if self.effective_batch % size == 0]

    def with_micro_batch(self, micro_batch: int) -> Schedule:
        """The same schedule in micro-batches of this many examples, a divisor of the effective batch."""
        assert self.effective_batch % micro_batch == 0
        return dataclasses.replace(self, micro_batch=micro_batch)

    @property
    def evaluation_points(self) -> list[int]:
        """The steps after which the model is evaluated; the last step is always one of them."""
        return _points(self.eval_steps, self.optimizer_steps)

    @property
    def save_points(self) -> list[int]:
        """The steps after which a checkpoint is saved; the last step is always one of them."""
        return _points(self.save_steps, self.optimizer_steps)

    @property
    def evaluations(self) -> int:
        """How many evaluations a run that goes to its end makes."""
        return len(self.evaluation_points)


def plan_schedule(train_examples: int, train: TrainSpec, early_stopping: EarlyStoppingSpec) -> Schedule:
    """The schedule of a job on this many training examples (with packing: on this many packed rows).

    Raises:
        BadInput: it cannot work: an interval that never comes, a best checkpoint that is never saved, patience that
            can never be exhausted, a warm-up that outlasts the training. One line a fault, with what to write.
    """
    if train_examples < 1:
        raise BadInput("data: no training examples; nothing can be trained")
    steps_per_epoch = math.ceil(train_examples / train.effective_batch)
    steps = train.max_steps or math.ceil(train.epochs * steps_per_epoch)
    eval_steps = _auto_eval_steps(steps, early_stopping) if train.eval_steps == "auto" else train.eval_steps
    schedule = Schedule(
        optimizer_steps=steps,
        steps_per_epoch=steps_per_epoch,
        eval_steps=eval_steps,
        save_steps=eval_steps if train.save_steps == "auto" else train.save_steps,
        warmup_steps=math.ceil(steps * train.warmup_ratio),
        effective_batch=train.effective_batch,
        micro_batch=train.effective_batch if train.batch == "max" else train.batch,
        patience_from_step=_patience_from_step(steps, early_stopping),
    )
    faults = list(_faults(schedule, train, early_stopping))
    if faults:
        length = f"max_steps {steps}" if train.max_steps else f"{train.epochs:g} epochs"
        basis = f"{train_examples} examples, effective batch {schedule.effective_batch}, {length}"
        raise BadInput(*(f"{fault} [{basis}: {_count(steps, 'optimizer step')}]" for fault in faults))
    return schedule


def _auto_eval_steps(steps: int, early_stopping: EarlyStoppingSpec) -> int:
    """At most eight evaluations, more where patience needs more to be exhausted before the end."""
    intervals = [math.ceil(steps / WANTED_EVALUATIONS)]
    if early_stopping.patience is not None:
        # The (patience + 1)th evaluation, and one after `patience_from_step`, must come before the last step.
        intervals += [
            (steps - 1) // (early_stopping.patience + 1),
            steps - _patience_from_step(steps, early_stopping),
        ]
    return max(1, min(intervals))


def _patience_from_step(steps: int, early_stopping: EarlyStoppingSpec) -> int:
    return max(early_stopping.min_steps, math.ceil(early_stopping.min_fraction * steps))


def _faults(schedule: Schedule, train: TrainSpec, early_stopping: EarlyStoppingSpec) -> Iterator[str]:
    steps = schedule.optimizer_steps
    if steps < 2:
        yield "train: a single optimizer step learns nothing that can be compared; give more epochs, or max_steps"
        return
    yield from _interval_faults(schedule, train)
    yield from _patience_faults(schedule, early_stopping)
    if train.logging_steps > steps:
        yield f"train.logging_steps: {train.logging_steps}: never comes; {max(1, steps // 5)} or less is needed"
    if schedule.warmup_steps >= steps:
        yield (
            f"train.warmup_ratio: {train.warmup_ratio:g}: the warm-up takes all {steps} steps; "
            "write a smaller ratio, or train longer"
        )


def _interval_faults(schedule: Schedule, train: TrainSpec) -> Iterator[str]:
    steps, every = schedule.optimizer_steps, schedule.eval_steps
    # The last step is evaluated anyway, so an interval is worth something only from its second coming on.
    if steps // every < 2:
        often = "comes only once" if steps >= every else "never comes"
        yield f"train.eval_steps: {every}: {often} before the end; write eval_steps: auto ({_auto_hint(steps)})"
    if schedule.save_steps > steps:
        yield (
            f"train.save_steps: {schedule.save_steps}: never comes before the end, so nothing could be resumed; "
            "write save_steps: auto (a save at each evaluation)"
        )
    elif train.load_best and schedule.save_steps % every:
        yield (
            f"train.save_steps: {schedule.save_steps}: not a multiple of eval_steps {every}, so the best step may "
            "not be saved (load_best); write save_steps: auto"
        )


def _patience_faults(schedule: Schedule, early_stopping: EarlyStoppingSpec) -> Iterator[str]:
    patience = early_stopping.patience
    if patience is None:
        return
    steps = schedule.optimizer_steps
    before_the_end = (steps - 1) // schedule.eval_steps
    if before_the_end < patience + 1:
        yield (
            f"early_stopping.patience: {patience}: can never be exhausted, it takes {patience + 1} evaluations before "
            f"the last step and there {'is' if before_the_end == 1 else 'are'} {before_the_end}; "
            f"{_patience_remedy(steps, patience)}"
        )
    elif before_the_end * schedule.eval_steps < schedule.patience_from_step:
        yield (
            f"early_stopping.min_steps, min_fraction: patience may stop from step {schedule.patience_from_step} on, "
            "but no evaluation comes between it and the last step; allow it earlier, or evaluate more often"
        )


def _patience_remedy(steps: int, patience: int) -> str:
    if steps >= patience + 2:
        return "write eval_steps: auto, a smaller patience, or patience: null for none"
    return f"train at least {patience + 2} steps, or write a smaller patience, or patience: null for none"


def _auto_hint(steps: int) -> str:
    every = math.ceil(steps / WANTED_EVALUATIONS)
    return f"here about every {every}, {_count(len(_points(every, steps)), 'evaluation')}"


def _points(interval: int, steps: int) -> list[int]:
    return sorted({*range(interval, steps + 1, interval), steps})


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
