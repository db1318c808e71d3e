"""What a run measures of itself: after its first steps the time and cost still to come, and a record for later plans.

One call per optimizer step, nothing on the device. docs/calibration.md says how sure the figures are.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from launcher.cost import calibration
from launcher.cost.budget import Stretch
from launcher.cost.reestimate import StepSample, mean_speed, reestimate, steps_to_measure
from launcher.cost.spread import Quantiles, Spread, total
from launcher.data.prepare import PreparedData
from launcher.data.token_count import expected_padded_tokens
from launcher.job import JobSpec
from launcher.rundir import RunFolder
from launcher.schedule import Schedule
from launcher.train.measurement import Measured, measured_record, trained_parameters
from launcher.train.progress import Progress
from launcher.train.row_lengths import row_lengths
from launcher.train.tracking import Tracker
from launcher.train.trainer import ToolCallTrainer

# Standard deviations of the logarithm of the time that stretches of a kind take together.
# A pace drifts over more than 20 steps. Measured on a CPU that other programs used too (docs/calibration.md); assumed
# for a GPU, which is ours alone but clocks down as it warms.
PACE_DEVIATION = {"cpu": 0.10, "cuda": 0.04}
# Assumed: answers change in length while a model learns; what was not seen yet is priced by something like it.
SEEN_DEVIATION, PRICED_DEVIATION, SAVE_DEVIATION = 0.2, 0.4, 0.7
# Of a training step with checkpointing the forward pass is one part of three, and all that a validation loss takes.
FORWARD_SHARE = 1 / 3
# A checkpoint holds each trained weight and its two moments in fp32; a rented machine's disk writes half a GB a second.
SAVED_BYTES_PER_WEIGHT, DISK_BYTES_PER_S = 12, 0.5e9


class Calibrator:
    """Times the first steps of one leg of a run, re-estimates the rest, and in the end says how far off it was.

    For one process on one device: a sharded run is measured by its own program.
    """

    def __init__(
        self,
        spec: JobSpec,
        data: PreparedData,
        schedule: Schedule,
        folder: RunFolder,
        progress: Progress,
        tracker: Tracker,
        trainer: ToolCallTrainer,
        measured: Measured,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec, self.schedule, self.folder = spec, schedule, folder
        self.progress, self.meter, self.tracker = progress, progress.meter, tracker
        self.trainer, self.measured, self.clock = trainer, measured, clock
        self.tokens_per_step = _tokens_per_step(trainer, schedule, measured.worst.micro_batch)
        self.validation_prompts, self.test_prompts = len(data.validation), len(data.test) + len(data.extra_test)
        self._samples: list[StepSample] = []
        self._wanted: tuple[int, int] | None = None
        self._skipped = 0
        self._estimate: Quantiles | None = None  # paid seconds at the end of the run
        self._steps_since, self._seconds_since = 0, 0.0
        self._mark = clock()

    # --- called by the training loop -----------------------------------------------------------------------------

    def start_stretch(self) -> None:
        """The time until now belongs to no step: an evaluation or a save has ended."""
        self._mark = self.clock()

    def end_step(self, step: int, positions: int) -> None:
        """A step has ended; the time since the one before, in which rows are fetched and collated, belongs to it."""
        now = self.clock()
        seconds, self._mark = now - self._mark, now
        if self._estimate is not None:
            self._steps_since += 1
            self._seconds_since += seconds
            return
        if self._wanted is None:
            self._wanted = steps_to_measure(self.schedule.optimizer_steps - step + 1)
        warm_up, wanted = self._wanted
        if self._skipped < warm_up:
            self._skipped += 1
            return
        self._samples.append(StepSample(positions, seconds))
        if len(self._samples) == wanted:
            self._calibrate(step)

    def finish(self, step: int, is_complete: bool) -> None:
        """The run has ended; where it was calibrated, write how far its estimate was off.

        Args:
            is_complete: the run did all it had planned; otherwise only its steps can be compared.
        """
        if self._estimate is None:
            return
        steps = self._steps_since
        row = {
            "kind": "calibration_error",
            "step": step,
            "training": _error(total([self._training(steps)]), self._seconds_since) if steps else None,
            "total": _error(self._estimate, self.meter.elapsed_s()) if is_complete else None,
            "elapsed_s": self.meter.elapsed_s(),
            "usd": self.meter.usd(),
        }
        self.folder.append_metrics(row)

    # --- the re-estimate -----------------------------------------------------------------------------------------

    def _calibrate(self, step: int) -> None:
        speed, elapsed = mean_speed(self._samples), self.meter.elapsed_s()
        remaining = self._remaining(step)
        ends_at = remaining.plus(elapsed)
        self._estimate = ends_at
        usd = {p: self.meter.guard.usd(getattr(ends_at, p)) for p in ("p10", "p50", "p90")}
        row = {
            "kind": "calibration",
            "step": step,
            "steps_measured": len(self._samples),
            "tokens_per_second_per_gpu": speed.median,
            "tokens_per_second_low": speed.quantile(0.1),
            "tokens_per_second_high": speed.quantile(0.9),
            "peak_reserved_gib": self.measured.peak_reserved_gib,
            "remaining_s": dataclasses.asdict(remaining),
            "total_s": dataclasses.asdict(ends_at),
            "total_usd": None if usd["p50"] is None else usd,
            "elapsed_s": elapsed,
            "usd": self.meter.usd(),
        }
        self.folder.append_metrics(row)
        self.tracker.log(step, {f"calibration/{name}": value for name, value in _flat(row).items()})
        line = _in_words(row)
        print(line)
        self.progress.update("training", urgent=True, reestimate=line)
        self._store(speed)

    def _remaining(self, step: int) -> Quantiles:
        steps = self.schedule.optimizer_steps - step
        return total(([self._training(steps)] if steps else []) + self._other_terms(step))

    def _training(self, steps: int) -> Spread:
        """Seconds of so many further steps."""
        expected = reestimate(self._samples, steps, steps * self.tokens_per_step)
        spread = Spread.from_quantiles(expected.p10, expected.p50, expected.p90)
        drift = PACE_DEVIATION[self.trainer.args.device.type]
        below, above = (math.hypot(side, drift) for side in (spread.below, spread.above))
        return Spread(spread.median, below, above)

    def _other_terms(self, step: int) -> list[Spread]:
        """Seconds of the evaluations and saves to come; of what was seen its mean, else what is like it."""
        priced = {
            Stretch.EVALUATION: self._validation_s(),
            Stretch.SAVE: trained_parameters(self.trainer) * SAVED_BYTES_PER_WEIGHT / DISK_BYTES_PER_S,
        }
        left = {
            Stretch.EVALUATION: sum(point > step for point in self.schedule.evaluation_points),
            Stretch.SAVE: sum(point > step for point in self.schedule.save_points),
            Stretch.FINAL_EVALUATION: 1,
        }
        unsure = {Stretch.EVALUATION: PRICED_DEVIATION, Stretch.SAVE: SAVE_DEVIATION}
        terms = []
        for kind, times in left.items():
            seen = self._mean_s(kind)
            each, deviation = (priced.get(kind), unsure.get(kind, 0.0)) if seen is None else (seen, SEEN_DEVIATION)
            if each and times:
                terms.append(Spread(each * times, deviation, deviation))
        return terms

    def _validation_s(self) -> float | None:
        """A validation pass before the first one: answers as slow as those on the test sets, and the loss."""
        final = self._mean_s(Stretch.FINAL_EVALUATION)
        if final is None:
            return None
        tokens = self.tokens_per_step / self.schedule.effective_batch * self.validation_prompts
        loss_s = FORWARD_SHARE * tokens / mean_speed(self._samples).median
        return final / self.test_prompts * self.validation_prompts + loss_s

    def _mean_s(self, kind: Stretch) -> float | None:
        guard = self.meter.guard
        return guard.total_s[kind] / guard.count[kind] if guard.count.get(kind) else None

    # --- the record for later plans ------------------------------------------------------------------------------

    def _store(self, speed: Spread) -> None:
        """Append to the user's measurements; a full disk must not end a run."""
        try:
            record = measured_record(self.spec, self.folder, self.trainer, self.measured, speed, len(self._samples))
            calibration.append(calibration.calibration_file(), record)
        except OSError as fault:
            print(f"{calibration.calibration_file()}: the measurement is not kept ({fault})")


def _tokens_per_step(trainer: ToolCallTrainer, schedule: Schedule, micro_batch: int) -> float:
    """Expected tokens of an optimizer step on one GPU, padding included."""
    lengths = row_lengths(trainer)
    steps = math.ceil(sum(rows for _, rows in lengths) / schedule.effective_batch)
    # Packed rows of a micro-batch are laid end to end, without padding.
    return expected_padded_tokens(lengths, 1 if trainer.padding_free else micro_batch) / steps


def _error(predicted: Quantiles, actual_s: float) -> dict[str, Any]:
    """The share by which the estimate was off, and whether the actual time lay between its percentiles."""
    return {
        "predicted_s": dataclasses.asdict(predicted),
        "actual_s": actual_s,
        "error": predicted.p50 / actual_s - 1,
        "is_inside": predicted.p10 <= actual_s <= predicted.p90,
    }


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of a row for W&B, those of nested objects as `name_p50`."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}_{inner}": figure for inner, figure in value.items()})
        elif name not in ("kind", "step"):
            flat[name] = value
    return flat


def _in_words(row: dict[str, Any]) -> str:
    """The re-estimate as one line."""
    left, usd, peak = row["remaining_s"], row["total_usd"], row["peak_reserved_gib"]
    low, high = row["tokens_per_second_low"], row["tokens_per_second_high"]
    parts = [
        f"{row['tokens_per_second_per_gpu']:,.0f} tokens/s with padding ({low:,.0f} to {high:,.0f})",
        *([] if peak is None else [f"{peak:.1f} GiB reserved at most"]),
        f"{_clock(left['p50'])} left ({_clock(left['p10'])} to {_clock(left['p90'])})",
        *([] if usd is None else [f"{usd['p50']:.4g} usd in the end ({usd['p10']:.4g} to {usd['p90']:.4g})"]),
    ]
    return f"re-estimated at step {row['step']} from {row['steps_measured']} steps: {'; '.join(parts)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}:{rest:02}"
